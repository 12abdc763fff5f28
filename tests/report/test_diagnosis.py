"""Verdicts on embeddings, the order of models, and the command that prints them."""

import json
import math

import numpy as np
import pytest
import torch
from builders import make_model, noise, write_audio

from speechssl.cli import main
from speechssl.errors import UserError
from speechssl.report.comparison import compare
from speechssl.report.diagnosis import Finding, agreement, diagnose, rank_models, table, verdict


def spread(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).numpy()


def collapsed(n=300, d=16):
    line = spread(1, d)
    return (1 + 0.01 * spread(n, 1) * line + 1e-6 * spread(n, d, seed=1)).astype("f4")


def test_an_even_spread_is_healthy_and_a_line_is_collapsed():
    assert verdict(diagnose(spread(500, 16))) == "healthy"
    assert verdict(diagnose(collapsed())).startswith("collapsed")


def test_views_add_figures_and_the_untrained_encoder_a_column():
    views = spread(1, 200, 16) + 0.3 * spread(3, 200, 16, seed=1)
    untrained = spread(1, 200, 16, seed=2) + 2.0 * spread(3, 200, 16, seed=3)
    alone, both = diagnose(views[0], views), diagnose(views[0], views, untrained)
    assert {f.name for f in both} - {f.name for f in alone} == {"arc"}
    assert {f.name for f in alone} >= {"alignment", "residual_energy", "garc"}
    (ratio,) = [f for f in both if f.name == "arc"]
    assert ratio.value > 1 and ratio.verdict == "healthy"
    assert "untrained" in table(both) and "untrained" not in table(alone)


def test_confusion_is_better_the_more_it_fell():
    """ARC = (1 - ACR) / (1 - ACR of the untrained encoder), methods/README.md 10, by hand."""

    def on_a_circle(angles):
        angles = torch.tensor(angles)
        return torch.stack([angles.cos(), angles.sin()], -1)

    def arc_of(trained, untrained):
        (found,) = [f for f in diagnose(trained[0], trained, untrained) if f.name == "arc"]
        return found.value, found.verdict

    confused = on_a_circle([[0.0, 1.0, 0.05], [0.1, 1.1, 2.0]])  # one of three finds its own crop
    apart = on_a_circle([[0.0, 1.0, 2.0], [0.01, 1.01, 2.01]])  # all three do
    assert arc_of(apart, confused) == (pytest.approx(3), "healthy")
    assert arc_of(confused, apart) == (pytest.approx(1 / 3), "watch")


def test_a_collapsed_encoder_has_a_confusion_ratio_far_below_one():
    untrained = spread(1, 300, 16) + 0.5 * spread(3, 300, 16, seed=1)
    noise = 1 + 1e-3 * spread(3, 300, 16, seed=2)  # every crop at one point, but for noise
    (found,) = [f for f in diagnose(noise[0], noise, untrained) if f.name == "arc"]
    assert found.value < 0.1 and found.verdict == "watch"


def test_too_few_or_broken_embeddings_are_refused():
    with pytest.raises(UserError, match="3 or more utterances"):
        diagnose(np.ones((2, 4), "f4"))
    with pytest.raises(UserError, match="all finite"):
        diagnose(np.full((9, 4), np.nan, "f4"))


def test_the_order_puts_the_collapsed_model_last():
    def figures(x):
        return {f.name: f.value for f in diagnose(x)}

    half = spread(300, 16)
    half[:, 6:] *= 0.05
    order = rank_models(
        {"bad": figures(collapsed()), "half": figures(half), "good": figures(spread(300, 16))}
    )
    assert [name for name, _ in order] == ["good", "half", "bad"]
    with pytest.raises(UserError, match="no figure of these models"):
        rank_models({"a": {}, "b": {}})


def test_ranks_by_hand():
    order = rank_models(
        {"a": {"rankme": 3.0, "centre_norm": 0.1}, "b": {"rankme": 5.0, "centre_norm": math.nan}}
    )
    assert dict(order) == {"a": 1.5, "b": 1.5}


def test_agreement_is_spearmans():
    assert agreement([1, 2, 3, 4], [10, 20, 30, 40]) == pytest.approx(1)
    assert agreement([1, 2, 3, 4], [40, 30, 20, 10]) == pytest.approx(-1)
    assert math.isnan(agreement([1, 2], [1, 2])) and math.isnan(agreement([1, 1, 1], [1, 2, 3]))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Eight files, a run folder with an untrained encoder, and another model."""
    folder = tmp_path_factory.mktemp("world")
    for i in range(8):
        write_audio(folder / "audio" / f"{i}.wav", noise(1 + i / 20, seed=i))
    write_audio(folder / "audio" / "short.wav", noise(0.25, seed=8))
    for seed, name in enumerate(("run/model", "run/untrained", "other")):
        make_model(seed=seed).save(folder / name)
    return folder


def test_diagnose_an_embeddings_file(tmp_path, capsys):
    np.savez(tmp_path / "e.npz", ids=np.arange(300).astype(str), embeddings=collapsed())
    assert main(["diagnose", str(tmp_path / "e.npz"), "--out", str(tmp_path / "out")]) == 0
    *_, rule, last = capsys.readouterr().out.splitlines()
    assert rule.startswith("rule: collapsed if the rank says so, or two")
    assert last.startswith("verdict: collapsed")
    written = json.loads((tmp_path / "out" / "diagnostics.json").read_text())
    assert written["figures"]["effective_rank"]["verdict"] == "collapsed"
    assert (tmp_path / "out" / "spectrum.png").exists()


def test_diagnose_a_run_compares_with_its_untrained_encoder(world, tmp_path, capsys):
    words = [
        "diagnose",
        str(world / "run"),
        str(world / "audio"),
        "--seconds",
        "0.5",
        "--views",
        "3",
    ]
    assert main([*words, "--out", str(tmp_path)]) == 0
    first = capsys.readouterr().out
    assert "untrained" in first and "\narc " in first and "verdict: " in first
    assert main(words) == 0
    assert capsys.readouterr().out == first  # the same crops again


def test_diagnose_ranks_models_on_the_same_crops(world, tmp_path, capsys):
    words = [str(world / "run" / "model"), str(world / "other"), str(world / "audio")]
    assert main(["diagnose", "--rank", *words, "--seconds", "0.5", "--out", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "ranking.json").read_text())
    assert len(rows) == 2 and rows[0]["mean_rank"] <= rows[1]["mean_rank"]
    assert capsys.readouterr().out.count("\n") == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere.npz"], "diagnose: give an embeddings file, or a model folder"),
        (["{w}/other", "{w}/audio", "{w}/audio"], "several models need --rank"),
        (["--rank", "{w}/other", "{w}/audio"], "--rank orders two or more models"),
        (["{w}/other", "{w}/audio", "--views", "1"], "--views at least 2"),
        (["{w}/other", "{w}/nothing"], "no such file or folder"),
        (["{w}/audio", "{w}/audio"], "holds no config.yaml"),
    ],
)
def test_mistakes_are_one_line(world, words, said, capsys):
    assert main(["diagnose", *(w.replace("{w}", str(world)) for w in words)]) == 2
    printed = capsys.readouterr().err
    assert said in printed and printed.count("\n") == 1


def test_a_comparison_of_nothing_is_refused(tmp_path):
    with pytest.raises(UserError, match="run `speechssl evaluate verification`"):
        compare(tmp_path)


def test_a_verdict_needs_a_figure():
    nothing = [Finding("uniformity", math.nan, -4.5, -1.0, "undefined", "")]
    assert verdict(nothing).startswith("undefined")
    assert verdict(diagnose(np.zeros((50, 8), "f4"))).startswith("collapsed")
