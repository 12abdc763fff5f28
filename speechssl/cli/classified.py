"""What `evaluate classification` and `finetune` do with predictions: votes of subjects, and files."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING

from speechssl.errors import UserError

if TYPE_CHECKING:
    from speechssl.evaluation.classification.classify import Classification


def read_subjects(args: argparse.Namespace) -> dict[str, str] | None:
    """Return utterance -> subject of ``--subjects``, or None without it.

    Call it before anything is computed: a file that cannot be read is said at once.
    """
    from speechssl.data.kaldi import read_values

    return read_values(args.subjects, "subject") if args.subjects else None


def conclude(
    args: argparse.Namespace,
    measured: Classification,
    subject_of: Mapping[str, str] | None,
    table: str,
) -> None:
    """Count subjects if asked, write into ``--out`` and print.

    `results.json` comes last: recipes take a folder that has it for done.

    Args:
        args: with ``out``, ``replicates`` and ``seed``.
        measured: the predictions.
        subject_of: of `read_subjects`.
        table: the figures of utterances, as they are printed.

    Raises:
        UserError: as `subjects.vote`; what was computed is written and printed before.
    """
    from speechssl.evaluation.classification import classify, subjects

    votes = None
    mistake = None
    if subject_of is not None:
        try:
            votes = subjects.add_votes(
                measured, subject_of, replicates=args.replicates, seed=args.seed
            )
        except UserError as error:
            mistake = error
    if args.out:
        from speechssl.report import plots

        results = measured.results
        plots.confusion_plot(results["labels"], results["confusion"], args.out / "confusion.png")
        if votes is not None:
            subjects.write_votes(args.out, votes)
        classify.write_results(args.out, measured)
    print(table)
    if mistake is not None:
        raise mistake
    if votes is not None:
        print(subjects.describe(measured.results["subjects"]))
