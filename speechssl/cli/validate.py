"""Check Kaldi directories before hours are spent on them."""

from __future__ import annotations

import argparse
from pathlib import Path

from speechssl.cli import flags
from speechssl.errors import UserError
from speechssl.text import plural, printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `speechssl validate`."""
    parser.add_argument(
        "directories", nargs="+", type=Path, metavar="DIR", help="a Kaldi directory"
    )
    parser.add_argument(
        "--read-audio",
        action="store_true",
        help="decode every file, and compare its length with utt2dur",
    )
    flags.add_remote(parser)


def run(args: argparse.Namespace) -> None:
    """Print the problems of each directory.

    Raises:
        UserError: there are problems.
    """
    from speechssl.audio.remotes import Remotes
    from speechssl.data.validation import validate

    remotes = Remotes(args.remote)
    count = 0
    for directory in args.directories:
        problems = validate(directory, read_audio=args.read_audio, remotes=remotes)
        count += len(problems)
        for problem in problems:
            print(printable(problem))
        if not problems:
            print(printable(f"{directory}: ok"))
    if count:
        problems_found = plural(count, "problem")
        raise UserError(f"validate: {problems_found}, listed above; correct the directory first")
