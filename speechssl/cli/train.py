"""Train an encoder on unlabelled audio.

The data are Kaldi directories, which `speechssl prepare` writes: data.train=[DIR]. OUT/model is the
model, for `speechssl embed` and the others; OUT/log.jsonl has the figures, which `speechssl watch`
shows. `speechssl list methods dino` prints the settings of a method, and so of any other part.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from speechssl.cli import flags
from speechssl.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `speechssl train`."""
    flags.add_config(parser)
    flags.add_overrides(parser, "settings that replace the file's, such as train.batch_size=64")
    flags.add_out(parser, "the run folder to write (not needed with --dry-run)")
    parser.add_argument(
        "--resume", action="store_true", help="continue from the last checkpoint in --out"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="check configuration, data and one step, then stop"
    )
    flags.add_device(parser)
    parser.add_argument(
        "--minutes",
        type=flags.positive,
        metavar="M",
        help="choose train.steps so that training takes about this long",
    )


def run(args: argparse.Namespace) -> None:
    """Train into the run folder."""
    from speechssl.train import loop

    if args.out is None and not args.dry_run:
        raise UserError(
            "train: --out is missing; give a run folder, or --dry-run to check without one"
        )
    loop.train(
        args.config,
        args.overrides,
        out=args.out or Path("."),
        resume=args.resume,
        dry_run=args.dry_run,
        device=args.device,
        minutes=args.minutes,
    )
