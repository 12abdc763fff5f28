"""``speechssl cluster``: embeddings to pseudo-labels."""

from __future__ import annotations

import argparse
from pathlib import Path


def arguments(sub: argparse.ArgumentParser) -> None:
    """Arguments of ``cluster``."""
    sub.add_argument(
        "embeddings", metavar="EMB", help="the file that `speechssl embed --out` wrote"
    )
    sub.add_argument("overrides", nargs="*", metavar="key=value", help="settings of the clusterer")
    sub.add_argument(
        "--with", dest="name", default="kmeans", metavar="NAME",
        help=(
            "see `speechssl list clustering`, or a class such as sklearn.cluster:Birch (default:"
            " kmeans)"
        ),
    )  # fmt: skip
    sub.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="for utt2cluster and clusters.json"
    )
    sub.add_argument(
        "--pca", type=float, default=0.0, help="directions, or the share of variance that they hold"
    )
    sub.add_argument("--smallest", type=int, default=1, help="leave out smaller clusters")
    sub.add_argument(
        "--largest", type=int, default=0, help="leave out larger clusters (default: 0, none)"
    )
    sub.add_argument(
        "--share", type=float, default=1.0, help="most confident share of each cluster that is kept"
    )
    sub.add_argument(
        "--reference", type=Path, metavar="UTT2SPK", help="true classes, to judge the clusters only"
    )


def run(args: argparse.Namespace) -> None:
    """``cluster``: utt2cluster, clusters.json and sizes.png; the figures on standard output."""
    from speechssl import config
    from speechssl.data.kaldi import read_values
    from speechssl.evaluation import clusters
    from speechssl.report.plots import size_plot

    section = {"name": args.name, **config.read("", args.overrides)}
    clusterer, settings = clusters.build(section)
    reference = read_values(args.reference, "spk") if args.reference else None
    kept = {
        "pca": args.pca,
        "smallest": args.smallest,
        "largest": args.largest,
        "share": args.share,
    }
    ids, labels, found = clusters.cluster(args.embeddings, clusterer, reference=reference, **kept)
    clusters.write(args.out, ids, labels, {"clusterer": settings, **found})
    size_plot(labels[labels >= 0], args.out / "sizes.png")
    for key, value in found.items():
        print(f"{key:<12}{value:.4f}" if isinstance(value, float) else f"{key:<12}{value}")
