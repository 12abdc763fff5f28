"""Plots: files are drawn, without pyplot, for ordinary and degenerate scores."""

import json
import shutil
import subprocess
import sys

import numpy as np
import page_experiment
import pytest
from matplotlib.image import imread

from speechssl import metrics
from speechssl.cli.command import main
from speechssl.errors import UserError
from speechssl.report import det, overlay, plots
from speechssl.report.bins import FEWEST, MOST, histogram
from speechssl.report.spectra import spectrum


@pytest.fixture
def scored():
    generator = np.random.default_rng(0)
    target = generator.random(2000) < 0.3
    return generator.normal(size=2000) + 2 * target, target


def _ink(path):
    """Share of pixels that are not white."""
    return float((imread(path)[..., :3].min(-1) < 0.95).mean())


@pytest.mark.parametrize("count", [3, 500])
def test_cluster_sizes_are_drawn(tmp_path, count):
    plots.size_plot(np.repeat(np.arange(count), 3), tmp_path / "sizes.png")
    assert 0.005 < _ink(tmp_path / "sizes.png") < 0.9


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


def test_an_svg_lies_beside_every_png(tmp_path, scored):
    plots.score_histogram(*scored, tmp_path / "x.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.png", "x.svg"]
    assert "</svg>" in (tmp_path / "x.svg").read_text(encoding="utf-8")


def test_min_dcf_is_the_cost_at_its_point(scored):
    fpr, fnr, _ = metrics.det_curve(*scored)
    for prior in (0.01, 0.05):
        x, y = det.min_dcf_point(fpr, fnr, prior)
        cost = (prior * y + (1 - prior) * x) / min(prior, 1 - prior)
        assert cost == pytest.approx(metrics.min_dcf(*scored, prior))


def test_the_band_holds_the_curve_and_narrows_with_more_speakers():
    widths = []
    for speakers in (8, 64):
        generator = np.random.default_rng(0)
        first = generator.integers(0, speakers, 4000)
        second = np.where(
            generator.random(4000) < 0.3, first, generator.integers(0, speakers, 4000)
        )
        target = first == second
        scores = generator.normal(size=4000) + 2 * target
        rows = det.band(scores, target, (first, second), replicates=60)
        ends = np.array([row for row in rows if row is not None])
        fpr, fnr, _ = metrics.det_curve(scores, target)
        curve = [det.miss_at(fpr, fnr, float(rate)) for rate in det.BAND_FPR]
        inside = (ends[:, 0] <= curve) & (curve <= ends[:, 1])
        assert len(rows) == len(det.BAND_FPR) and inside.mean() > 0.9
        widths.append(float((ends[:, 1] - ends[:, 0]).mean()))
    assert widths[1] < widths[0]


def test_histograms_have_area_one_and_no_bin_too_many(scored):
    scores, target = scored
    edges, densities = histogram(scores, [~target, target])
    assert FEWEST <= len(edges) - 1 <= MOST
    assert [float((density * np.diff(edges)).sum()) for density in densities] == pytest.approx(
        [1, 1]
    )


@pytest.mark.parametrize(("count", "dim"), [(10, 30), (30, 10), (2, 5), (5, 1)])
def test_the_spectrum_has_no_values_that_centring_took_away(count, dim):
    values = spectrum(np.random.default_rng(0).normal(size=(count, dim)))
    assert len(values) == min(count - 1, dim) and values[0] == 1 and values[-1] > 1e-3


def test_the_spectrum_of_equal_rows_is_zero():
    assert (spectrum(np.full((7, 3), 0.1)) == 0).all()


def test_confusion_shows_shares_and_f1(tmp_path):
    plots.confusion_plot(["a", "b"], [[8, 2], [1, 9]], tmp_path / "c.svg")
    f1 = 2 * 8 / (2 * 8 + 2 + 1)
    text = (tmp_path / "c.svg").read_text(encoding="utf-8")
    assert f"F1 {f1:.2f}" in text and "80 %" in text


def test_det_curve_passes_through_the_eer(tmp_path, scored, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "save", lambda figure, path: drawn.append(figure))
    plots.det_plot({"one": scored}, tmp_path / "unused.png")
    curve, mark = drawn[0].axes[0].lines[:2]
    x, y = mark.get_xdata()[0], mark.get_ydata()[0]
    assert x == y
    assert np.hypot(curve.get_xdata() - x, curve.get_ydata() - y).min() < 0.05


def test_a_histogram_of_scores_that_differ_by_hundreds_of_decades():
    scores = np.concatenate([[-1e99], np.arange(8) * 1e-290, [1e99]])
    edges, (density,) = histogram(scores, [np.ones(10, bool)])
    assert len(edges) == MOST + 1 and np.isfinite(density).all()


def test_mistakes_are_one_line(tmp_path, scored):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be drawn"):
        plots.score_histogram(*scored, tmp_path / "file" / "x.png")
    with pytest.raises(UserError, match="cannot be drawn"):
        plots.score_histogram(*scored, tmp_path / "x.unknown")


def test_pyplot_is_left_alone():
    code = "import sys; from speechssl.report import plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", ["a", "a system with a longer name", "x" * 500])
def test_a_legend_of_many_names_is_whole_and_the_axes_keep_their_size(name):
    rng = np.random.default_rng(0)
    target = rng.random(500) < 0.5
    scores = rng.normal(size=500) + target
    sizes = []
    for count in (1, 10):
        figure = plots.det_plot({f"{name} {place}": (scores, target) for place in range(count)})
        figure.draw_without_rendering()
        (legend,) = figure.legends
        drawn = legend.get_window_extent()
        assert drawn.x0 >= 0 and drawn.x1 <= figure.bbox.width and drawn.y0 >= 0
        assert figure.axes[0].title.get_window_extent().y1 <= figure.bbox.height
        assert drawn.y1 < figure.axes[0].xaxis.label.get_window_extent().y0
        sizes.append(figure.axes[0].get_window_extent().height)
    assert sizes[1] > 0.9 * sizes[0]


def test_all_systems_of_an_experiment_are_drawn_over_each_other(tmp_path, capsys, monkeypatch):
    exp = page_experiment.experiment(tmp_path / "exp")
    drawn = {}
    real = plots.det_plot

    def det_plot(systems, path, bands):
        drawn[path.name] = (systems, bands)
        return real(systems, path, bands)

    monkeypatch.setattr(overlay.plots, "det_plot", det_plot)
    assert main(["report", str(exp), "--det", str(tmp_path / "det.png")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'det.png'}\n"
    assert (tmp_path / "det.png").exists() and (tmp_path / "det.svg").exists()
    systems, bands = drawn["det.png"]
    assert systems.keys() == bands.keys() == {"trained", "untrained"}
    scores, target = systems["untrained"]
    results = json.loads((exp / "eval/untrained/list/results.json").read_text())
    assert metrics.eer(scores, target) == pytest.approx(results["eer"])
    shutil.copytree(exp / "eval/trained/list", exp / "eval/trained/other")
    (exp / "eval/trained/other/det.json").write_text('{"fnr_interval": [[1, "x"], 3]}')
    assert main(["report", str(exp), "--det", str(tmp_path / "two.png")]) == 0
    assert {"two-list.png", "two-other.png"} <= drawn.keys()
    assert drawn["two-other.png"][1] == {}
    for one in exp.glob("eval/*/*/scores"):
        one.unlink()
    assert main(["report", str(exp), "--det", str(tmp_path / "none.png")]) == 2
    assert "has kept its scores" in capsys.readouterr().err


def test_a_confusion_of_very_many_classes_is_drawn_without_words():
    figure = plots.confusion_plot([f"c{place}" for place in range(101)], np.eye(101))
    assert not figure.axes[0].texts and max(figure.get_size_inches()) < 80
