"""List the encoders, methods, corpora and other parts, and the shipped configurations."""

from __future__ import annotations

import argparse

from speechssl import conf, parts

FOLDERS = {**parts.FOLDERS, "conf": "configurations of `speechssl train` and `pseudolabel`"}
"""Folders that can be listed, in order, and what they hold."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `speechssl list`."""
    parser.add_argument(
        "folder",
        nargs="?",
        choices=FOLDERS,
        metavar="FOLDER",
        help=f"one of {', '.join(FOLDERS)} (default: all of them)",
    )


def run(args: argparse.Namespace) -> None:
    """Print the name and description of each part."""
    if args.folder:
        _print_entries(args.folder)
        return
    for folder, content in FOLDERS.items():
        print(f"{folder}: {content}")
        _print_entries(folder, indent="  ")


def _print_entries(folder: str, indent: str = "") -> None:
    descriptions = conf.descriptions() if folder == "conf" else parts.descriptions(folder)
    width = max(len(name) for name in descriptions)
    for name, description in descriptions.items():
        print(f"{indent}{name:<{width}}  {description}")
