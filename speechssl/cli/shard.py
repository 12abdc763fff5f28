"""Pack a Kaldi directory into tar shards."""

from __future__ import annotations

import argparse
from pathlib import Path

from speechssl.cli import flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `speechssl shard`."""
    parser.add_argument("directory", type=Path, metavar="DIR", help="a Kaldi directory")
    parser.add_argument(
        "out", type=Path, metavar="OUT", help="the Kaldi directory to write, with the shards"
    )
    parser.add_argument(
        "--store",
        metavar="URL",
        help="where the shards go: a folder or s3://, gs:// ... (default: OUT)",
    )
    parser.add_argument(
        "--format",
        choices=("flac", "wav"),
        default="flac",
        help="flac has half the bytes; of wav, crops are read without decoding (default: flac)",
    )
    parser.add_argument(
        "--megabytes",
        type=flags.count,
        default=512,
        metavar="MB",
        help="size of a full shard (default: 512)",
    )
    flags.add_remote(parser)
    flags.add_seed(parser)
    flags.add_jobs(parser, "files at a time")


def run(args: argparse.Namespace) -> None:
    """Write the shards and their Kaldi directory."""
    from speechssl.audio.remotes import Remotes
    from speechssl.data.shards import write_shards

    write_shards(
        args.directory,
        args.out,
        store=args.store,
        format=args.format,
        megabytes=args.megabytes,
        seed=args.seed,
        jobs=args.jobs,
        remotes=Remotes(args.remote),
    )
