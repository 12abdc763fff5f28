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
    parser.add_argument(
        "--quantise",
        choices=["int8"],
        help="large products in 8 bits, for a CPU with VNNI or AMX (format onnx)",
    )
    parser.add_argument(
        "--calibrate",
        nargs="+",
        default=(),
        metavar="AUDIO",
        help="recordings that --quantise is calibrated on: files, folders, Kaldi directories",
    )
    flags.add_allow_code(parser)


def run(args: argparse.Namespace) -> None:
    """Write the folder and print its path."""
    from speechssl.exporters.export import export

    written = export(
        args.model,
        args.to,
        args.out,
        quantise=args.quantise,
        calibrate=args.calibrate,
        allow_code=args.allow_code,
    )
    print(written)
