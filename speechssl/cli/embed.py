"""Compute one embedding per utterance.

Files that cannot be embedded are counted, listed in FILE.failed and left out; files of a folder
that are no audio are counted and listed in FILE.passed_over. With `--window` every window of a
recording has an embedding, whose id ends in its start and stop in milliseconds. Where `--out` is a
folder, `--resume` also adds what is new among the inputs.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from speechssl.cli import flags
from speechssl.errors import UserError

if TYPE_CHECKING:
    from speechssl.embed.files import Summary
    from speechssl.embed.settings import EmbedSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `speechssl embed`."""
    flags.add_model_or_name(parser)
    flags.add_recordings(parser, more=", a .parquet with columns id and path", stdin=True)
    parser.add_argument(
        "--out",
        required=True,
        metavar="FILE",
        help=(
            ".npz, .ark, .scp or .parquet; -: one line per utterance on standard output; a folder (a"
            " name without ending, or s3://bucket/folder): many parquet files, which nothing gathers"
        ),
    )
    parser.set_defaults(out_takes_address=True)
    _add_hardware(parser)
    _add_engine(parser)
    _add_policy(parser)
    _add_cutting(parser)
    _add_choices(parser)


def _add_hardware(parser: argparse.ArgumentParser) -> None:
    """Add what decides how fast it goes."""
    flags.add_device(parser)
    flags.add_precision(parser, int8=True)
    flags.add_jobs(parser, "processes that share the files", default=1)
    parser.add_argument(
        "--readers",
        type=flags.count,
        metavar="N",
        help="threads of each process that read and decode (default: 2; on a GPU one a core)",
    )
    parser.add_argument(
        "--batch-seconds",
        type=flags.positive,
        metavar="SECONDS",
        help="audio in a batch (default: 60; on a GPU 600)",
    )
    parser.add_argument(
        "--max-seconds",
        type=flags.positive,
        default=60.0,
        metavar="SECONDS",
        help=("longer files are embedded in pieces of this length and averaged (default: 60)"),
    )


def _add_engine(parser: argparse.ArgumentParser) -> None:
    """Add what runs the work on many machines."""
    parser.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="processes of this machine, or a Ray cluster, into a folder (default: local)",
    )
    parser.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="Ray cluster, auto: that of this machine (default: one is started for this run)",
    )
    parser.add_argument(
        "--workers",
        type=flags.whole_number,
        default=0,
        metavar="N",
        help="actors of Ray (default: 0, one a GPU, else one for every --worker-cpus)",
    )
    parser.add_argument(
        "--worker-cpus",
        type=flags.count,
        metavar="N",
        help="cores of an actor of Ray (default: 1)",
    )


def _add_policy(parser: argparse.ArgumentParser) -> None:
    """Add what decides about bad files, and about what an interrupted run has left."""
    parser.add_argument(
        "--keep-going",
        action="store_true",
        default=True,
        help="skip, count and list files that cannot be embedded (the default)",
    )
    parser.add_argument(
        "--strict",
        dest="keep_going",
        action="store_false",
        help="stop at the first file that cannot be embedded",
    )
    parser.add_argument(
        "--allow-pipes", action="store_true", help="run the shell pipes in a wav.scp"
    )
    flags.add_remote(parser)
    flags.add_allow_code(parser)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue an interrupted run (FILE.parts, or the folder)",
    )


def _add_cutting(parser: argparse.ArgumentParser) -> None:
    """Add what long and stereo recordings are cut into."""
    flags.add_windows(
        parser,
        "one embedding for each window of this length (default: one for each recording)",
        window=None,
        hop=None,
    )
    flags.add_vad(parser, "embed speech only")
    flags.add_channels(parser)


def _add_choices(parser: argparse.ArgumentParser) -> None:
    """Add what is embedded, and by which layer and network."""
    parser.add_argument(
        "--every",
        type=flags.count,
        default=1,
        metavar="N",
        help="embed every N-th utterance only, such as for a training mean (default: 1)",
    )
    parser.add_argument(
        "--layer",
        default="embedding",
        metavar="NAME",
        help="layer whose output is taken; the error about a wrong name lists them (default: embedding)",
    )
    parser.add_argument(
        "--network",
        metavar="NAME",
        help="student or teacher of a run folder MODEL (default: the network of the saved model)",
    )
    parser.add_argument(
        "--features",
        metavar="FRONT_END",
        help="what an ONNX file MODEL takes: kaldi, waveform, ... or '{name: kaldi, n_mels: 80}'"
        " (default: what the file says)",
    )


def run(args: argparse.Namespace) -> None:
    """Write the embeddings; say on standard error what was embedded and what was left out."""
    from speechssl.embed.settings import EmbedSettings

    settings = EmbedSettings(
        device=args.device,
        precision=args.precision,
        jobs=args.jobs,
        readers=args.readers,
        batch_seconds=args.batch_seconds,
        max_seconds=args.max_seconds,
        keep_going=args.keep_going,
        allow_pipes=args.allow_pipes,
        remote=tuple(args.remote),
        resume=args.resume,
        every=args.every,
        layer=args.layer,
        network=args.network,
        features=args.features,
        allow_code=tuple(args.allow_code),
        window=args.window,
        hop=args.hop,
        vad=args.vad,
        channels=args.channels,
    )
    summary: Summary | None
    if args.engine == "ray":
        summary = _embed_on_ray(args, settings)
    elif args.address or args.workers or args.worker_cpus:
        raise UserError(
            "embed: --address, --workers and --worker-cpus go with --engine ray; add it"
        )
    else:
        from speechssl.embed import embed_to_file

        summary = embed_to_file(args.model, args.inputs, args.out, settings)
    if summary is not None:
        print(summary, file=sys.stderr)


def _embed_on_ray(args: argparse.Namespace, settings: EmbedSettings) -> Summary:
    from speechssl.embed.corpus import embed_corpus
    from speechssl.embed.ray_cluster import RaySettings

    where = RaySettings(args.address, args.workers, args.worker_cpus or 1)
    return embed_corpus(args.model, args.inputs, args.out, settings, where)
