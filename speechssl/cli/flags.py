"""Flags that several verbs share."""

from __future__ import annotations

import argparse


def add_precision(parser: argparse.ArgumentParser) -> None:
    """Add ``--precision``."""
    parser.add_argument(
        "--precision",
        choices=("auto", "float32", "bfloat16"),
        default="float32",
        help="of the encoder's products; auto: bfloat16 where the hardware has it (default: float32)",
    )
