"""Compute cosine scores of a trial list."""

from __future__ import annotations

import argparse

from speechssl.cli import verification


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `speechssl score`."""
    verification.score_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Run `speechssl score`."""
    verification.score(args)
