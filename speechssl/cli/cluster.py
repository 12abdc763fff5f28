"""Cluster embeddings into pseudo-labels; no label is read.

Writes utt2cluster (the cluster of each utterance), clusters.json (settings and figures), sizes.png, and
examples.tsv: the most central utterances of each cluster, to listen to.

A folder of embeddings is streamed by kmeans and kmeans_ahc: memory is that of the centroids and 8
bytes an embedding. `torchrun --nproc-per-node N -m speechssl cluster FOLDER ...` shares it among
processes.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechssl.cli import flags
from speechssl.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `speechssl cluster`."""
    flags.add_embeddings(parser)
    flags.add_overrides(parser, "settings of the clusterer, such as n_clusters=100")
    parser.add_argument(
        "--with",
        dest="name",
        default="kmeans",
        metavar="NAME",
        help=(
            "clusterer: one of `speechssl list clustering`, or a class such as"
            " sklearn.cluster:Birch (default: kmeans)"
        ),
    )
    flags.add_out(
        parser, "folder for utt2cluster, clusters.json, examples.tsv and sizes.png", required=True
    )
    _add_filters(parser)
    flags.add_device(parser)
    parser.add_argument(
        "--examples",
        type=flags.whole_number,
        default=5,
        metavar="N",
        help="most central utterances of each cluster in examples.tsv; 0: no such file (default: 5)",
    )
    parser.add_argument(
        "--reference",
        type=Path,
        metavar="UTT2SPK",
        help="true classes, for figures such as NMI; no clusterer sees them",
    )


def _add_filters(parser: argparse.ArgumentParser) -> None:
    """Add what is done before clustering and left out after it."""
    parser.add_argument(
        "--pca",
        type=flags.not_negative,
        default=0.0,
        metavar="N",
        help=(
            "project on N principal directions first; N below 1: on as many as hold this share of"
            " the variance (default: 0, no projection)"
        ),
    )
    parser.add_argument(
        "--min-cluster-size",
        type=flags.count,
        default=1,
        metavar="N",
        help="leave out clusters of fewer utterances (default: 1)",
    )
    parser.add_argument(
        "--max-cluster-size",
        type=flags.whole_number,
        default=0,
        metavar="N",
        help="leave out clusters of more utterances (default: 0, no limit)",
    )
    parser.add_argument(
        "--keep-fraction",
        type=flags.share,
        default=1.0,
        metavar="S",
        help="keep this share of each cluster: the members nearest to its mean (default: 1)",
    )


def run(args: argparse.Namespace) -> None:
    """Write the clusters and print their figures."""
    from speechssl import config
    from speechssl.data.kaldi import read_values
    from speechssl.data.vectors.folder import is_folder
    from speechssl.evaluation import clusters
    from speechssl.evaluation.streamed_clusters import can_stream

    section = {"name": args.name, **config.read("", args.overrides)}
    clusterer, settings = clusters.build(section)
    reference = None
    if args.reference:
        reference = read_values(args.reference, "spk")
    filters = {
        "pca": args.pca,
        "min_cluster_size": args.min_cluster_size,
        "max_cluster_size": args.max_cluster_size,
        "keep_fraction": args.keep_fraction,
        "reference": reference,
    }
    if is_folder(args.embeddings) and can_stream(clusterer):
        _run_streamed(args, clusterer, settings, filters)
        return
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            "cluster: several processes share a folder of embeddings, and kmeans or kmeans_ahc; leave"
            " torchrun out"
        )
    _run_in_memory(args, clusterer, settings, filters)


def _run_in_memory(
    args: argparse.Namespace, clusterer: Any, settings: Mapping[str, Any], filters: dict[str, Any]
) -> None:
    from speechssl.evaluation import clusters
    from speechssl.files import write_text
    from speechssl.report.plots import size_plot

    tables = []

    def keep_examples(ids: list[str], rows: clusters.Rows, labels: clusters.Labels) -> None:
        tables.append(clusters.examples(ids, rows, labels, args.examples))

    with flags.writing_alone(args.out):
        ids, labels, figures = clusters.cluster(
            args.embeddings,
            clusterer,
            on_rows=keep_examples if args.examples else None,
            **filters,
        )
        clusters.write(args.out, ids, labels, {"clusterer": settings, **figures})
        for table in tables:
            write_text(args.out / "examples.tsv", table)
        size_plot(labels[labels >= 0], args.out / "sizes.png")
    _print_figures(figures)


def _run_streamed(
    args: argparse.Namespace, clusterer: Any, settings: Mapping[str, Any], filters: dict[str, Any]
) -> None:
    """Cluster a folder that no process holds whole; under torchrun, this is one of several."""
    from speechssl import distributed
    from speechssl.data.vectors.folder import VectorFolder
    from speechssl.evaluation import streamed_clusters
    from speechssl.files import write_text
    from speechssl.report.plots import size_plot

    world = distributed.start(args.device)
    try:
        with flags.writing_alone(args.out if world.first else None):
            folder = VectorFolder(args.embeddings)
            found = streamed_clusters.cluster_folder(folder, clusterer, world, **filters)
            if found is None:
                return
            about = {"clusterer": settings, **found.figures}
            streamed_clusters.write_folder(args.out, folder, found.labels, about)
            if args.examples:
                table = streamed_clusters.examples(folder, found, args.examples)
                write_text(args.out / "examples.tsv", table)
            size_plot(found.labels[found.labels >= 0], args.out / "sizes.png")
        _print_figures(found.figures)
    finally:
        distributed.stop()


def _print_figures(figures: Mapping[str, Any]) -> None:
    for key, value in figures.items():
        if key == "sizes":
            smallest, median, largest = value
            shown = f"{smallest} to {largest} utterances, median {median:g}"
        else:
            shown = f"{value:.4f}" if isinstance(value, float) else str(value)
        print(f"{key:<12}{shown}")
