"""`speechssl embed`: one embedding per utterance."""

from __future__ import annotations

import argparse
import sys

from speechssl.cli.flags import add_precision


def arguments(sub: argparse.ArgumentParser) -> None:
    """Arguments of `embed`."""
    sub.add_argument(
        "model", metavar="MODEL", help="a model or run folder, or mfcc (statistics, no model)"
    )
    sub.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help=(
            "audio files, folders, a wav.scp, Kaldi directories; - is a list of files on standard"
            " input"
        ),
    )
    sub.add_argument(
        "--out",
        required=True,
        metavar="FILE",
        help=".npz, .ark, .scp, .parquet, or - for one line a file",
    )
    sub.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 ... (default: auto)")
    add_precision(sub)
    sub.add_argument(
        "--jobs", type=int, default=1, help="processes to share the files (default: 1)"
    )
    sub.add_argument(
        "--readers", type=int, default=2, help="threads that decode, per process (default: 2)"
    )
    sub.add_argument(
        "--batch-seconds", type=float, default=60.0, help="audio in a batch (default: 60)"
    )
    sub.add_argument(
        "--max-seconds",
        type=float,
        default=120.0,
        help="longer files go in pieces, averaged (default: 120)",
    )
    sub.add_argument(
        "--keep-going",
        action="store_true",
        default=True,
        help="skip, count and list bad files (the default)",
    )
    sub.add_argument(
        "--strict", dest="keep_going", action="store_false", help="end at the first bad file"
    )
    sub.add_argument("--allow-pipes", action="store_true", help="run the shell pipes of wav.scp")
    sub.add_argument(
        "--resume", action="store_true", help="go on from what a broken run left behind"
    )
    sub.add_argument(
        "--every",
        type=int,
        default=1,
        metavar="N",
        help="every N-th utterance only, for a training mean",
    )
    sub.add_argument(
        "--layer",
        default="embedding",
        metavar="NAME",
        help="which layer; a wrong name lists those there are",
    )
    sub.add_argument(
        "--network",
        metavar="NAME",
        help="student or teacher of a run folder (default: the one it saved)",
    )


def run(args: argparse.Namespace) -> None:
    """`embed`: the file; what was embedded and left out on standard error."""
    from speechssl.embed import embed_to_file

    summary = embed_to_file(
        args.model,
        args.inputs,
        args.out,
        device=args.device,
        precision=args.precision,
        jobs=args.jobs,
        readers=args.readers,
        batch_seconds=args.batch_seconds,
        max_seconds=args.max_seconds,
        keep_going=args.keep_going,
        allow_pipes=args.allow_pipes,
        resume=args.resume,
        every=args.every,
        layer=args.layer,
        network=args.network,
    )
    if summary is not None:
        print(summary, file=sys.stderr)
