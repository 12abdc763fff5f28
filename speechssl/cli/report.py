"""Gather an experiment's results into one table."""

from __future__ import annotations

import argparse
from pathlib import Path

from speechssl.cli import flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `speechssl report`."""
    parser.add_argument(
        "experiment",
        type=Path,
        metavar="EXP",
        help="folder of an experiment, with eval/MODEL/LIST/results.json",
    )
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument(
        "--compare",
        action="store_true",
        help="methods side by side: writes comparison.md and comparison.png",
    )
    kind.add_argument(
        "--record",
        action="store_true",
        help="model, data, labels and scoring of each result: writes record.md and record.json",
    )
    kind.add_argument(
        "--transfer",
        action="store_true",
        help="emotion and other labels (recipes/emotion): writes transfer.md",
    )


def run(args: argparse.Namespace) -> None:
    """Write the table and print it."""
    experiment = args.experiment if args.experiment.is_dir() else None
    with flags.writing_alone(experiment):
        print(_write_table(args))


def _write_table(args: argparse.Namespace) -> str:
    if args.compare:
        from speechssl.report.comparison import compare

        return compare(args.experiment)
    if args.record:
        from speechssl.report.record import record

        return record(args.experiment)
    if args.transfer:
        from speechssl.report.transfer import transfer

        return transfer(args.experiment)
    from speechssl.report.summary import summarise

    return summarise(args.experiment)
