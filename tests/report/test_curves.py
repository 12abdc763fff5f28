"""Curves of trainings: what is drawn is what the log has."""

import json

import numpy as np
import pytest
from matplotlib.image import imread

from speechssl.drawing import curves
from speechssl.errors import UserError
from speechssl.interfaces import TrackedRun
from speechssl.report import maps
from speechssl.trackers.notebook import Notebook

LOG = [
    {"step": 5, "loss": 3.0, "lr": 0.1},
    {"step": 10, "loss": float("nan"), "effective_rank": 12.0},
    {"step": 15, "loss": 1.0, "effective_rank": 4.0, "alarms": ["collapse alarm: narrow"]},
]


def drawn(axes, marker="None"):
    """The points of each line of one kind, of those that have any."""
    lines = [line for line in axes.lines if line.get_marker() == marker and len(line.get_xdata())]
    return [np.transpose(line.get_data()).tolist() for line in lines]


def test_each_run_is_a_line_and_each_alarm_a_cross():
    figure = curves.curves_plot({"one": LOG, "two": LOG[:1]}, known={"loss": 2.0})
    loss, rank = figure.axes
    assert (loss.get_title(), rank.get_title()) == ("loss", "effective rank of the embeddings")
    one, known = drawn(loss)
    assert one == [[5, 3], [15, 1]]  # NaN is no point
    assert drawn(loss, "o") == [[[5, 3]]]
    assert [y for _, y in known] == [2, 2]
    assert drawn(rank) == [[[10, 12], [15, 4]]]
    assert drawn(loss, "X") == [[[15, 1]]] and drawn(rank, "X") == [[[15, 4]]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "one",
        "two",
        "alarm",
        "known answer",
    ]


def test_a_run_folder_is_read_and_a_file_written(tmp_path):
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in LOG))
    figure = curves.curves_plot({"run": tmp_path}, ["lr"], path=tmp_path / "curves.png")
    assert [axes.get_title() for axes in figure.axes] == ["learning rate"]
    assert (imread(tmp_path / "curves.png")[..., :3].min(-1) < 0.95).mean() > 0.005
    assert (tmp_path / "curves.svg").is_file()
    assert [entry["step"] for entry in curves.read_log(tmp_path)] == [5, 10, 15]


def test_what_no_run_has_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no run has logged any of kl"):
        curves.curves_plot({"one": LOG}, ["kl"])
    with pytest.raises(UserError, match="no such file"):
        curves.curves_plot({"one": tmp_path})


def test_the_notebook_tracker_draws_all_of_a_resumed_run(tmp_path, monkeypatch):
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in LOG))
    asked = []
    monkeypatch.setattr(curves, "curves_plot", lambda runs, keys: asked.append(runs))
    tracker = Notebook()
    tracker.open(TrackedRun(tmp_path, "exp/mine", {}, {}, 10, "notebook"))
    tracker.add_figures(12, {"loss": 2.0})
    tracker.add_alarm(12, "flat")
    tracker._figure()
    assert [entry["step"] for entry in asked[0][tmp_path.name]] == [5, 10, 12]
    assert asked[0][tmp_path.name][-1] == {"step": 12, "loss": 2.0, "alarms": ["flat"]}


def test_a_map_has_every_point_in_the_colour_of_its_label(tmp_path):
    generator = np.random.default_rng(0)
    x = np.repeat(np.eye(3), 8, axis=0) + 0.01 * generator.normal(size=(24, 3))
    labels = [f"s{row // 8}" for row in range(24)]
    figure = maps.map_plot(x, labels, tmp_path / "map.png", title="Voices")
    (axes,) = figure.axes
    points = drawn(axes, "o")
    assert [len(line) for line in points] == [8, 8, 8]
    assert len({line.get_color() for line in axes.lines}) == 3
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "s0 (8)",
        "s1 (8)",
        "s2 (8)",
    ]
    # Neighbours stay neighbours: each point is nearer to its own centre than to the others.
    centres = np.array([np.mean(line, axis=0) for line in points])
    for own, line in enumerate(points):
        distances = np.linalg.norm(np.array(line)[:, None] - centres, axis=-1)
        assert (distances.argmin(1) == own).all()
    assert len(maps.map_plot(x).legends) == 0


def test_a_small_change_looks_small():
    flat = [
        {"step": step, "centre_norm": 0.08 + step / 1e5, "kl": 2 + step / 1e5} for step in (1, 2)
    ]
    centre, kl = curves.curves_plot({"one": flat}, ["centre_norm", "kl"]).axes
    assert centre.get_ylim() == (0, 1.05) and kl.get_ylim()[0] == 0


def test_a_figure_that_was_measured_once_is_seen():
    log = [{"step": step, "loss": 1.0 / step} for step in range(1, 9)] + [
        {"step": 9, "rankme": 7.0}
    ]
    figure = curves.curves_plot({"run": log}, ("loss", "rankme"))
    loss, rank = (axes.lines[0] for axes in figure.axes)
    assert loss.get_marker() == "None"
    assert rank.get_marker() == "o" and rank.get_xydata().tolist() == [[9.0, 7.0]]
