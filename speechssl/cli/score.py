"""Score a trial list, or find the nearest neighbours of embeddings.

Writes a line a pair: the two ids and their score. Scores are cosines, or what --as-norm, --plda and
--calibrate make of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from speechssl.cli import flags, scoring
from speechssl.cli.tables import write_lines
from speechssl.errors import UserError

_OF_TRIALS = (
    *("as-norm", "plda", "plda-classes", "plda-dim", "plda-pca"),
    *("calibrate", "calibrate-with", "enrol", "keep-going"),
)
"""Flags that a search would pass over in silence."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `speechssl score`."""
    scoring.add_scoring(parser)
    pairs = parser.add_mutually_exclusive_group(required=True)
    scoring.add_trials(pairs, answers=False)
    pairs.add_argument(
        "--nearest",
        type=flags.count,
        metavar="K",
        help="score each utterance with the K most similar others",
    )
    pairs.add_argument("--all-pairs", action="store_true", help="score every pair, each one once")
    parser.add_argument(
        "--against",
        metavar="EMB",
        help="with --nearest or --all-pairs: compare with these (default: with EMB itself)",
    )
    parser.add_argument(
        "--out",
        required=True,
        metavar="FILE",
        help="file for the lines `enrol test score`; - for standard output",
    )


def run(args: argparse.Namespace) -> None:
    """Write one line a trial, or a pair."""
    write_lines(args.out, lambda: _lines(args))


def _lines(args: argparse.Namespace) -> Iterator[str]:
    return _trial_lines(args) if args.trials else _search_lines(args)


def _trial_lines(args: argparse.Namespace) -> Iterator[str]:
    from speechssl.data.trials import read_pairs
    from speechssl.evaluation.verification.verify import score, score_lines

    if args.against:
        raise UserError("score: --against goes with --nearest or --all-pairs, not with --trials")
    settings = scoring.scoring_settings(args)
    scored = score(args.embeddings, read_pairs(args.trials), settings)
    return score_lines(scored.located.trials, scored.scores)


def _search_lines(args: argparse.Namespace) -> Iterator[str]:
    from speechssl.evaluation.verification.search import search

    for flag in _OF_TRIALS:
        if getattr(args, flag.replace("-", "_")):
            raise UserError(f"score: --{flag} needs --trials; leave it out")
    found = search(
        args.embeddings,
        args.against,
        top=args.nearest,
        mean=args.subtract_mean,
        whiten=args.whiten,
        shrinkage=args.shrinkage,
    )
    return (f"{enrol} {test} {score:.7g}\n" for enrol, test, score in found)
