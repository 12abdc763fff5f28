"""Measure embeddings on a task."""

from __future__ import annotations

import argparse

from speechssl.cli import verification


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `speechssl evaluate`."""
    verification.evaluate_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Run `speechssl evaluate`."""
    verification.evaluate(args)
