"""Draw the picture at the top of the README: a map of embeddings beside a collapse.

    python egs/front/picture.py --embeddings FILE --speakers DIR --runs NAME=RUN ... --out FOLDER

Left, the embeddings of FILE by t-SNE (as `speechssl report --html` draws them), a colour and a shape
for each speaker of DIR/utt2spk. Right, the effective rank of the projections over the steps of each
training run, from its `log.jsonl`; a cross is the monitor's first alarm. Written twice, for a light
and for a dark page: `picture.svg` and `picture-dark.svg`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from speechssl.data.kaldi import read_mapping
from speechssl.data.vectors.files import read_vectors
from speechssl.drawing import style
from speechssl.errors import UserError
from speechssl.report.maps import draw_map
from speechssl.report.page import projection

INCHES = (9.6, 4.4)
TEXT = {"picture.svg": "#1f2328", "picture-dark.svg": "#e6edf3"}
"""File -> colour of its text: GitHub's on a light and on a dark page. The background is left open."""

LINE_COLOURS = ("#d55e00", "#0090d8", "#009e73")
"""Of the runs; they are seen on white and on black."""


class Curve(NamedTuple):
    """The rank of the projections while a run went on.

    Args:
        steps: (T,) steps at which the monitor looked.
        ranks: (T,) effective rank of the projections.
        alarm: step of the first alarm, or None.
    """

    steps: NDArray[np.int64]
    ranks: NDArray[np.float64]
    alarm: int | None


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--embeddings", type=Path, required=True)
    parser.add_argument("--speakers", type=Path, required=True, metavar="DIR")
    parser.add_argument("--runs", nargs="+", required=True, metavar="NAME=RUN")
    parser.add_argument("--title", default="Embeddings, coloured by speaker")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    try:
        make(args)
    except UserError as error:
        parser.error(str(error))


def make(args: argparse.Namespace) -> None:
    """Read the files that the command line names and write both pictures."""
    ids, embeddings = read_vectors(args.embeddings)
    speaker_of = read_mapping(args.speakers / "utt2spk")
    speakers = [speaker_of[name] for name in ids]
    points, _ = projection.project(embeddings, "tsne")
    curves = {}
    for run in args.runs:
        name, _, folder = run.rpartition("=")
        curves[name or folder] = read_curve(Path(folder) / "log.jsonl")
    for file, colour in TEXT.items():
        draw(args.out / file, colour, args.title, points, speakers, curves)
        print(args.out / file)


def read_curve(path: Path) -> Curve:
    """Read the rank over steps, and the first alarm, from a training log.

    Raises:
        UserError: the log holds no rank.
    """
    steps = []
    ranks = []
    alarms = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if "projection_rank" in row:
            steps.append(row["step"])
            ranks.append(row["projection_rank"])
        if row.get("alarms"):
            alarms.append(row["step"])
    if not steps:
        raise UserError(f"{path}: holds no projection_rank; train with monitor.every")
    return Curve(np.array(steps), np.array(ranks), min(alarms, default=None))


def draw(
    path: Path,
    text_colour: str,
    title: str,
    points: NDArray[np.float32],
    speakers: Sequence[str],
    curves: dict[str, Curve],
) -> None:
    """Write the picture in one colour of text.

    Args:
        path: file to write.
        text_colour: of text and axes.
        title: of the map.
        points: (N, 2).
        speakers: N names.
        curves: name -> curve of a run.
    """
    colours = {
        "text.color": text_colour,
        "axes.edgecolor": text_colour,
        "axes.labelcolor": text_colour,
        "axes.titlecolor": text_colour,
        "xtick.color": text_colour,
        "ytick.color": text_colour,
        "font.size": 11,
        "axes.titlesize": 12,
        "savefig.transparent": True,
        "svg.hashsalt": "speechssl",  # the same file from the same numbers
    }
    with matplotlib.rc_context(colours):
        figure, (left, right) = style.panels(INCHES, 2)
        draw_map(left, points, speakers)
        left.set_title(title)
        draw_curves(right, curves)
        write(figure, path)


def draw_curves(axes: Axes, curves: dict[str, Curve]) -> None:
    """Draw the rank of each run, its name at the end of its line."""
    for colour, (name, curve) in zip(LINE_COLOURS, curves.items()):
        axes.plot(curve.steps, curve.ranks, color=colour, lw=2.2, label=style.plain(name))
        if curve.alarm is not None:
            rank = np.interp(curve.alarm, curve.steps, curve.ranks)
            axes.plot(curve.alarm, rank, "X", color=colour, ms=11, mec="white", mew=1)
            axes.annotate(
                f"alarm, step {curve.alarm}",
                (curve.alarm, rank),
                xytext=(9, 9),
                textcoords="offset points",
                color=colour,
            )
    axes.set_title("SimSiam in training: rank of the projections")
    axes.set_xlabel("step")
    axes.set_ylim(bottom=0)
    axes.grid(color="0.5", alpha=0.25, lw=0.6)
    axes.legend(frameon=False, loc="best")


def write(figure: Figure, path: Path) -> None:
    """Write an SVG without the date, so that it changes only with what it shows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
