"""Build an index of embeddings for `speechssl search`.

Below a million embeddings the index is exact; from there on it holds lists of codes (faiss's
IVF-PQ), and the share of the true nearest neighbours that a search finds is measured and printed.
"""

from __future__ import annotations

import argparse

from speechssl.cli import flags
from speechssl.text import plural


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `speechssl index`."""
    flags.add_embeddings(parser)
    flags.add_out(parser, "folder of the index", required=True)
    parser.add_argument(
        "--kind",
        choices=("auto", "flat", "ivfpq"),
        default="auto",
        help="exact, codes, or by the number of embeddings (default: auto)",
    )
    parser.add_argument(
        "--recall",
        type=flags.share,
        default=0.95,
        metavar="R",
        help="of the 10 nearest others, for which enough lists are looked into (default: 0.95)",
    )
    parser.add_argument(
        "--subtract-mean",
        metavar="TRAIN_EMB",
        help="subtract the mean of these embeddings, here and from queries",
    )
    flags.add_seed(parser)


def run(args: argparse.Namespace) -> None:
    """Build, measure, and print what was found."""
    from speechssl.evaluation.neighbours.build import build_index, mean_of

    with flags.writing_alone(args.out):
        mean = mean_of(args.subtract_mean) if args.subtract_mean else None
        about, measured = build_index(
            args.embeddings, args.out, mean=mean, kind=args.kind, recall=args.recall, seed=args.seed
        )
    print(f"kind        {about.kind}")
    print(f"embeddings  {about.rows} of {about.dim} numbers, {plural(len(about.shards), 'shard')}")
    if about.kind == "ivfpq":
        print(
            f"lists       {about.lists}, {about.probes} looked into; {about.code_bytes} byte codes"
        )
        of = f"of {about.recall_queries} embeddings, against exact search"
        print(f"recall@10   {about.recall:.4f} {of}")
    else:
        print("recall@10   1: every search is exact")
    print(f"a query     {measured['milliseconds']:.2f} ms")
    print(f"on disk     {measured['bytes'] / 1e6:.1f} MB, built in {measured['seconds']:.1f} s")
