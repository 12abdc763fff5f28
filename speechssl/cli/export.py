"""Write a model for other programs.

After writing, the embeddings of the exported files are compared with the model's.
"""

from __future__ import annotations

import argparse

from speechssl import parts
from speechssl.cli import flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `speechssl export`."""
    formats = parts.names("exporters")
    flags.add_model(parser)
    parser.add_argument(
        "--to",
        required=True,
        metavar="FORMAT",
        help=f"one of {', '.join(formats)} (`speechssl list exporters`)",
    )
    flags.add_out(parser, "folder for the model in the other format", required=True)
    flags.add_allow_code(parser)


def run(args: argparse.Namespace) -> None:
    """Write the folder and print its path."""
    from speechssl.exporters.export import export

    print(export(args.model, args.to, args.out, allow_code=args.allow_code))
