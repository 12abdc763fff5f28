"""Average the weights of a run's last checkpoints."""

from __future__ import annotations

import argparse
from pathlib import Path

from speechssl.cli import flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `speechssl average`."""
    parser.add_argument(
        "run_folder", type=Path, metavar="RUN", help="run folder that `speechssl train --out` wrote"
    )
    parser.add_argument(
        "--last",
        type=flags.count,
        default=10,
        metavar="N",
        help="average the last N snapshots (default: 10)",
    )
    parser.add_argument(
        "--until",
        type=flags.whole_number,
        metavar="STEP",
        help="leave out snapshots after this step (default: none)",
    )
    flags.add_out(parser, "the model folder to write (default: RUN/model-averageN)")
    flags.add_allow_code(parser)


def run(args: argparse.Namespace) -> None:
    """Write the averaged model and print its folder."""
    from speechssl.train.average import average

    print(average(args.run_folder, args.last, args.out, args.until, allow_code=args.allow_code))
