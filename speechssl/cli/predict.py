"""Classify recordings with a classifier that `speechssl finetune --save` wrote.

Writes a table: recording, likeliest class, and the probability of each class. With `--subjects` also
a table of subjects, FILE.subjects.tsv: the mean probabilities of each one's recordings.
"""

from __future__ import annotations

import argparse
import functools
import sys
from pathlib import Path

from speechssl.cli import flags
from speechssl.cli.tables import cell_text, write_lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `speechssl predict`."""
    parser.add_argument(
        "classifier",
        type=Path,
        metavar="CLASSIFIER",
        help="folder that `speechssl finetune --save` wrote",
    )
    flags.add_recordings(parser)
    flags.add_table_out(parser)
    parser.add_argument(
        "--subjects",
        type=Path,
        metavar="FILE",
        help="lines `recording subject`: also classify subjects (with --out -: them alone)",
    )
    flags.add_device(parser)
    flags.add_allow_code(parser)


def run(args: argparse.Namespace) -> None:
    """Write the tables; say on standard error what was left out."""
    from speechssl.data.kaldi import read_values
    from speechssl.embed.sources import collect
    from speechssl.finetune import predict, saved
    from speechssl.text import plural, printable

    subject_of = None
    if args.subjects:
        subject_of = read_values(args.subjects, "subject")
    classifier = saved.load(args.classifier, allow_code=tuple(args.allow_code))
    utterances, bad_lines = collect(args.inputs)
    found, unreadable = predict.predict(classifier, utterances, args.device)
    tables = {"recording": found}
    if subject_of is not None:
        tables["subject"] = predict.by_subject(found, subject_of)
    for what, table in tables.items():
        out = args.out
        if what == "subject" and out != "-":
            path = Path(out)
            out = str(path.with_name(f"{path.stem}.subjects.tsv"))
        if out != "-" or table is list(tables.values())[-1]:  # one table fits on standard output
            write_lines(out, functools.partial(table.lines, what, cell_text(out)))
    for failure in [*bad_lines, *unreadable]:
        print(printable(f"left out {failure.path}: {failure.reason}"), file=sys.stderr)
    left_out = len(bad_lines) + len(unreadable)
    recordings = plural(len(found.ids), "recording")
    print(f"{recordings} classified, {left_out} left out", file=sys.stderr)
