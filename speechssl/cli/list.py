"""Show the encoders, methods, corpora ... that there are."""

from __future__ import annotations

import argparse

from speechssl import parts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `speechssl list`."""
    parser.add_argument(
        "parts",
        nargs="?",
        choices=parts.FOLDERS,
        metavar="PARTS",
        help=f"one of {', '.join(parts.FOLDERS)} (default: all of them)",
    )


def run(args: argparse.Namespace) -> None:
    """Print name and description of each part."""
    if args.parts:
        _print_parts(args.parts)
        return
    for folder in parts.FOLDERS:
        print(f"{folder}:")
        _print_parts(folder, indent="  ")


def _print_parts(folder: str, indent: str = "") -> None:
    for name, description in parts.descriptions(folder).items():
        print(f"{indent}{name:<18} {description}".rstrip())
