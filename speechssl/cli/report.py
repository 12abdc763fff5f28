"""Gather the results of experiments into one table, or into a page to look at and listen to."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from speechssl.cli import flags
from speechssl.errors import UserError
from speechssl.text import plural, printable

_PAGE_ONLY = ("data", "no-audio", "clips", "map", "map-points")
"""Flags that would be passed over in silence without --html."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `speechssl report`."""
    parser.add_argument(
        "experiments",
        nargs="+",
        type=Path,
        metavar="EXP",
        help="folder of an experiment, with eval/MODEL/LIST/results.json; several only with --html",
    )
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument(
        "--compare",
        action="store_true",
        help="methods side by side: writes comparison.md and comparison.png",
    )
    kind.add_argument(
        "--record",
        action="store_true",
        help="model, data, labels and scoring of each result: writes record.md and record.json",
    )
    kind.add_argument(
        "--transfer",
        action="store_true",
        help="emotion and other labels (recipes/emotion): writes transfer.md",
    )
    kind.add_argument(
        "--html",
        type=Path,
        metavar="FILE",
        help="one page with tables, curves, a map and audio; it opens without a network",
    )
    kind.add_argument(
        "--det",
        type=Path,
        metavar="FILE",
        help="error curves of all systems over each other, a picture (.png, and .svg beside it) for"
        " each trial list",
    )
    _add_page(parser)


def _add_page(parser: argparse.ArgumentParser) -> None:
    """Add what only the page (--html) needs."""
    group = parser.add_argument_group("the page of --html")
    group.add_argument(
        "--data",
        type=Path,
        nargs="+",
        default=(),
        metavar="DIR",
        help="Kaldi directories of the utterances: their labels and audio are shown",
    )
    group.add_argument(
        "--no-audio", action="store_true", help="embed no audio, whatever --data names"
    )
    group.add_argument(
        "--clips",
        type=flags.whole_number,
        metavar="N",
        help="utterances of the map that can be heard (default: 60)",
    )
    group.add_argument(
        "--map",
        choices=("auto", "tsne", "umap", "pca"),
        help="how the map is made; auto: UMAP where it is installed, or t-SNE (default: auto)",
    )
    group.add_argument(
        "--map-points",
        type=flags.count,
        metavar="N",
        help="embeddings of a map; of more, a sample (default: 2000)",
    )


def run(args: argparse.Namespace) -> None:
    """Write the table and print it, or write the page."""
    if args.html is not None:
        _write_page(args)
        return
    for flag in _PAGE_ONLY:
        if getattr(args, flag.replace("-", "_")):
            raise UserError(f"report: --{flag} is for the page; give --html FILE too")
    if len(args.experiments) > 1:
        raise UserError("report: several experiments are shown by --html FILE only; give one")
    experiment = args.experiments[0]
    with flags.writing_alone(experiment if experiment.is_dir() else None):
        print(_write_table(args, experiment))


def _write_page(args: argparse.Namespace) -> None:
    from speechssl.report.page.material import PageSettings
    from speechssl.report.page.write import write_page

    given = {"map_points": args.map_points, "map_method": args.map, "clips": args.clips}
    chosen = PageSettings(**{name: value for name, value in given.items() if value is not None})
    made = write_page(
        args.experiments, args.html, data=args.data, audio=not args.no_audio, chosen=chosen
    )
    _say_left_out(made.notes)
    size = args.html.stat().st_size / 1e6
    print(
        f"{printable(str(args.html))}: {size:.1f} MB, {plural(len(made.clips.addresses), 'clip')}"
    )


def _write_table(args: argparse.Namespace, experiment: Path) -> str:
    if args.compare:
        from speechssl.report.comparison import compare

        return compare(experiment)
    if args.record:
        from speechssl.report.record import record

        return record(experiment)
    if args.det is not None:
        return _draw_det(experiment, args.det)
    if args.transfer:
        from speechssl.report.transfer import transfer

        return transfer(experiment)
    from speechssl.report.summary import summarise

    return summarise(experiment)


def _draw_det(experiment: Path, out: Path) -> str:
    """Draw the error curves and return the names of the pictures."""
    from speechssl.report.overlay import draw_det

    drawn = draw_det(experiment, out)
    _say_left_out(drawn.notes)
    return "\n".join(printable(str(file)) for file in drawn.files)


def _say_left_out(notes: Sequence[str]) -> None:
    for note in notes:
        print(f"left out: {printable(note)}", file=sys.stderr)
