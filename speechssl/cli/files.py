"""`speechssl shard` and `speechssl export`: what is written for other disks and other programs."""

from __future__ import annotations

import argparse
from pathlib import Path


def shard_arguments(sub: argparse.ArgumentParser) -> None:
    """The arguments of `speechssl shard`."""
    sub.add_argument("directory", type=Path, metavar="DIR", help="a Kaldi directory")
    sub.add_argument("out", type=Path, metavar="OUT", help="the Kaldi directory of the shards")
    sub.add_argument(
        "--store",
        metavar="URL",
        help="where the shards go: a folder or s3://, gs:// ... (default: OUT)",
    )
    sub.add_argument("--format", choices=("flac", "wav"), default="flac", help="(default: flac)")
    sub.add_argument(
        "--megabytes", type=int, default=512, help="size of a full shard (default: 512)"
    )
    sub.add_argument("--seed", type=int, default=0, help="of the order (default: 0)")
    sub.add_argument("--jobs", type=int, help="files at a time (default: all cores)")


def shard(arguments: argparse.Namespace) -> None:
    """Run `speechssl shard`."""
    from speechssl.data.shards import write_shards

    write_shards(
        arguments.directory,
        arguments.out,
        store=arguments.store,
        format=arguments.format,
        megabytes=arguments.megabytes,
        seed=arguments.seed,
        jobs=arguments.jobs,
    )


def export_arguments(sub: argparse.ArgumentParser) -> None:
    """The arguments of `speechssl export`."""
    sub.add_argument("model", type=Path, metavar="MODEL", help="a model or run folder")
    sub.add_argument(
        "--to",
        required=True,
        metavar="FORMAT",
        help="huggingface, onnx, speechbrain or torchscript",
    )
    sub.add_argument("--out", required=True, type=Path, metavar="DIR", help="the folder to write")


def export(arguments: argparse.Namespace) -> None:
    """Run `speechssl export`."""
    from speechssl.exporters.export import export as write

    print(write(arguments.model, arguments.to, arguments.out))
