"""Find the embeddings of an index that are nearest to others, or to recordings.

Writes a table: the query, an utterance of the index, and their cosine; the nearest first.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from speechssl.cli import flags
from speechssl.cli.tables import cell_text, write_lines
from speechssl.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `speechssl search`."""
    parser.add_argument(
        "index", type=Path, metavar="INDEX", help="folder that `speechssl index` wrote"
    )
    parser.add_argument(
        "queries",
        nargs="+",
        metavar="QUERY",
        help="files or folders of embeddings; with --model recordings, as for `speechssl embed`",
    )
    parser.add_argument(
        "--model", metavar="MODEL", help="embed the queries with this model; that of the index"
    )
    parser.add_argument(
        "--top", type=flags.count, default=10, metavar="K", help="nearest of each (default: 10)"
    )
    parser.add_argument(
        "--probes",
        type=flags.count,
        metavar="N",
        help="lists that are looked into (default: those of the index, which its recall is of)",
    )
    flags.add_table_out(parser)
    flags.add_device(parser)
    flags.add_remote(parser)
    flags.add_allow_code(parser)


def run(args: argparse.Namespace) -> None:
    """Write the lines."""
    write_lines(args.out, lambda: _lines(args))


def _lines(args: argparse.Namespace) -> Iterator[str]:
    from speechssl.evaluation.neighbours.search import Index

    text = cell_text(args.out)
    index = Index(args.index)
    if args.probes:
        index.set_probes(args.probes)
    for names, embeddings in _queries(args):
        for name, other, cosine in index.search(names, embeddings, args.top):
            yield f"{text(name)}\t{text(other)}\t{cosine:.6f}\n"


def _queries(args: argparse.Namespace) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
    """Yield ids and embeddings (n, D) of the queries."""
    if args.model is None:
        from speechssl.data.vectors.files import blocks_of

        for query in args.queries:
            yield from blocks_of(query)
        return
    from speechssl.audio.remotes import Remotes
    from speechssl.embed import load
    from speechssl.embed.gather import gather
    from speechssl.embed.sources import collect
    from speechssl.text import printable

    utterances, bad = collect(args.queries, remotes=Remotes(args.remote))
    embedder = load(args.model, args.device, allow_code=tuple(args.allow_code))
    kept, matrix, failed = gather(embedder, utterances)
    for failure in (*bad, *failed):
        print(printable(f"left out {failure.path}: {failure.reason}"), file=sys.stderr)
    if not kept:
        raise UserError("search: none of the queries could be embedded")
    yield [utterance.id for utterance in kept], matrix
