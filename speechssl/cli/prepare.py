"""Write Kaldi directories (and trials) from a corpus.

`speechssl prepare CORPUS --help` shows the arguments of each corpus.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

from speechssl import parts
from speechssl.cli import signature
from speechssl.cli.parsers import summary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a sub-parser for each part of `corpora/`."""
    corpora: Any = parser.add_subparsers(dest="corpus", required=True, metavar="CORPUS")
    for name, text in parts.descriptions("corpora").items():
        corpora.add_parser(name, help=summary(text), add_arguments=partial(_add_parameters, name))


def _add_parameters(corpus: str, parser: argparse.ArgumentParser) -> None:
    signature.add_parameters(parser, parts.find("corpora", corpus))


def run(args: argparse.Namespace) -> None:
    """Write the directory, as its only writer."""
    from speechssl.locks import sole_writer_in

    with sole_writer_in(args.out):
        signature.call(parts.find("corpora", args.corpus), args)
