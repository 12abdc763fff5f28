"""Plots: files are drawn, without pyplot, for ordinary and degenerate scores."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.image import imread

from speechssl.errors import UserError
from speechssl.report import plots


@pytest.fixture
def scored():
    generator = np.random.default_rng(0)
    target = generator.random(2000) < 0.3
    return generator.normal(size=2000) + 2 * target, target


def _ink(path):
    """Share of pixels that are not white."""
    return float((imread(path)[..., :3].min(-1) < 0.95).mean())


def test_plots_are_drawn(tmp_path, scored):
    plots.det_plot({"one": scored, "two": (-scored[0], scored[1])}, tmp_path / "deep" / "det.png")
    plots.score_histogram(*scored, tmp_path / "histogram.png")
    plots.spectrum_plot(
        {"x": np.random.default_rng(1).normal(size=(50, 8))}, tmp_path / "spectrum.png"
    )
    for path in (
        tmp_path / "deep" / "det.png",
        tmp_path / "histogram.png",
        tmp_path / "spectrum.png",
    ):
        assert 0.01 < _ink(path) < 0.6


@pytest.mark.filterwarnings("ignore:all scores are equal")
def test_degenerate_scores_are_drawn_too(tmp_path, scored):
    target = scored[1]
    plots.det_plot(
        {"collapsed": (np.zeros(len(target)), target), "perfect": (target, target)},
        tmp_path / "det.svg",
    )
    plots.score_histogram(np.ones(len(target)), target, tmp_path / "histogram.svg")
    plots.spectrum_plot(
        {"constant": np.ones((9, 4)), "line": np.outer(np.arange(9), np.ones(4))},
        tmp_path / "s.svg",
    )
    for name in ("det.svg", "histogram.svg", "s.svg"):
        assert "</svg>" in (tmp_path / name).read_text(encoding="utf-8")


def test_det_curve_passes_through_the_eer(tmp_path, scored, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "save", lambda figure, path: drawn.append(figure))
    plots.det_plot({"one": scored}, tmp_path / "unused.png")
    curve, mark = drawn[0].axes[0].lines[:2]
    x, y = mark.get_xdata()[0], mark.get_ydata()[0]
    assert x == y
    assert np.hypot(curve.get_xdata() - x, curve.get_ydata() - y).min() < 0.05


def test_mistakes_are_one_line(tmp_path, scored):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be drawn"):
        plots.score_histogram(*scored, tmp_path / "file" / "x.png")
    with pytest.raises(UserError, match="cannot be drawn"):
        plots.score_histogram(*scored, tmp_path / "x.unknown")


def test_pyplot_is_left_alone():
    code = "import sys; from speechssl.report import plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
