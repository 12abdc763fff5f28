"""recipes/emotion/seeds.py: the mean gain over several trainings, and its interval."""

import re
import sys

import numpy as np
import pytest
from builders import load_script
from sklearn.metrics import f1_score

LABELS = np.array(["anger", "joy", "calm"])


@pytest.fixture(scope="module")
def seeds():
    """The script, which is no part of a package."""
    return load_script("recipes/emotion/seeds.py")


def write_probe(folder, truth, right, seed):
    """A probe that is right with a probability, and its macro-F1 by scikit-learn."""
    rng = np.random.default_rng(seed)
    predicted = np.where(rng.random(len(truth)) < right, truth, rng.choice(LABELS, len(truth)))
    folder.mkdir(parents=True)
    lines = [f"u{i:03d} {a} {b}\n" for i, (a, b) in enumerate(zip(truth, predicted, strict=True))]
    (folder / "predictions").write_text("".join(reversed(lines)))
    return f1_score(truth, predicted, average="macro")


@pytest.fixture
def probes(tmp_path):
    """Three trainings that are right more often than what they began with, and one baseline."""
    truth = np.random.default_rng(0).choice(LABELS, 300)
    (tmp_path / "utt2spk").write_text("".join(f"u{i:03d} s{i % 12}\n" for i in range(300)))
    figures = {}
    for name, right in (("after", 0.7), ("before", 0.3)):
        rows = [
            write_probe(tmp_path / name / str(s), truth, right, [s, len(name)]) for s in range(3)
        ]
        figures[name] = np.array(rows)
    return tmp_path, figures


def run(seeds, monkeypatch, folder, after, before):
    words = ["--after", *map(str, after), "--before", *map(str, before), "--replicates", "200"]
    monkeypatch.setattr(sys, "argv", ["seeds.py", str(folder / "utt2spk"), *words])
    seeds.main()


def test_the_gain_is_the_mean_of_paired_differences(seeds, probes, monkeypatch, capsys):
    folder, figures = probes
    after, before = ([folder / name / str(s) for s in range(3)] for name in ("after", "before"))
    run(seeds, monkeypatch, folder, after, before)
    gains = figures["after"] - figures["before"]
    said = capsys.readouterr().out.splitlines()
    assert said[0].split() == ["after", f"{figures['after'].mean():.3f}", "+-", said[0].split()[-1]]
    mean, spread, low, high = map(float, re.findall(r"[-+]?\d\.\d{3}", said[2]))
    assert mean == pytest.approx(gains.mean(), abs=6e-4)
    assert spread == pytest.approx(gains.std(ddof=1), abs=6e-4)
    assert 0 < low < mean < high
    # beside themselves they gain nothing, and no resample says otherwise
    run(seeds, monkeypatch, folder, after, after)
    assert "gain    +0.000 +- 0.000 [+0.000, +0.000], 3 trainings" in capsys.readouterr().out


def test_one_baseline_for_all_and_what_cannot_be(seeds, probes, monkeypatch, capsys, tmp_path):
    folder, figures = probes
    after = [folder / "after" / str(s) for s in range(3)]
    run(seeds, monkeypatch, folder, after, [folder / "before" / "0"])
    mean = float(capsys.readouterr().out.splitlines()[2].split()[1])
    assert mean == pytest.approx((figures["after"] - figures["before"][0]).mean(), abs=6e-4)
    with pytest.raises(SystemExit):
        run(seeds, monkeypatch, folder, after, [folder / "before" / "0"] * 2)
    assert "2 probes for 3; give as many, or one" in capsys.readouterr().err
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "predictions").write_text("v anger joy\n")
    with pytest.raises(SystemExit, match="of other utterances"):
        run(seeds, monkeypatch, folder, after, [tmp_path / "else"])
