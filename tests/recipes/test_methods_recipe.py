"""recipes/methods/run.sh on generated voices: the unmodified script, from nothing to the table."""

import re

import pytest
from builders import ROOT, read_json, run_script

from speechssl import parts
from speechssl.train.settings import resolve

FOLDER = ROOT / "recipes/methods"
SCRIPT = "recipes/methods/run.sh"


def arms():
    """Name -> overrides, as run.sh reads them."""
    rows = [
        line
        for line in (FOLDER / "conf" / "arms.tsv").read_text().splitlines()
        if not line.startswith("#")
    ]
    found = {}
    for line in rows:
        name, _, words = line.partition("\t")
        found[name] = re.findall(r"[^ ={]+=(?:\{.*\}|[^ ]+)", words)
    return found


@pytest.mark.parametrize("name", arms())
def test_every_arm_is_a_configuration(name):
    settings = resolve(str(FOLDER / "conf" / "base.yaml"), arms()[name])
    assert settings.method["name"] in parts.names("methods")


def test_every_method_and_every_predictor_has_an_arm():
    settings = [
        resolve(str(FOLDER / "conf" / "base.yaml"), words).method for words in arms().values()
    ]
    unlabelled = {
        name for name in parts.names("methods") if not parts.find("methods", name).NEEDS_LABELS
    }
    assert {s["name"] for s in settings} == unlabelled
    predictors = {s["predictor"]["name"] for s in settings if "predictor" in s}
    assert predictors == set(parts.names("predictors"))


@pytest.mark.parametrize(
    "chosen",
    [
        "dimcl-byol",
        pytest.param("dimcl-byol c3_dino simsiam-none swav", marks=pytest.mark.slow),
    ],
)
def test_the_tiny_form_goes_from_nothing_to_the_table_and_does_nothing_twice(chosen, tmp_path):
    words = ["--tiny", "--exp", tmp_path, "--arms", chosen]
    done = run_script(SCRIPT, *words)
    assert done.returncode == 0, done.stderr[-2000:]
    found = read_json(tmp_path / "comparison.json")
    assert set(found["arms"]) == {*chosen.split(), "untrained"}
    for name in chosen.split():
        arm = found["arms"][name]
        assert 0 <= arm["eer"]["eval"] <= 100 and arm["verdict"] and arm["seconds"] > 0
        assert {"rankme", "centre_norm", "uniformity", "arc"} <= set(arm["figures"])
    assert "| dimcl-byol |" in done.stdout
    assert ("Spearman" in done.stdout) == (len(found["arms"]) > 3)  # of three trained or more
    assert (tmp_path / "comparison.png").stat().st_size > 5000
    assert "| dimcl-byol |" in (tmp_path / "sweep.md").read_text()
    seconds = (tmp_path / "seconds.tsv").read_bytes()
    again = run_script(SCRIPT, *words)
    assert again.returncode == 0, again.stderr[-2000:]
    assert (tmp_path / "seconds.tsv").read_bytes() == seconds  # no command has run again


def test_an_unknown_arm_is_one_line(tmp_path):
    (tmp_path / "data/train").mkdir(parents=True)
    done = run_script(SCRIPT, "--tiny", "--exp", tmp_path, "--arms", "byoll", "--stage", "2")
    assert done.returncode == 2
    assert "no arm 'byoll' in recipes/methods/conf/arms.tsv" in done.stderr


def test_stages_without_a_training_set_are_one_line(tmp_path):
    done = run_script(SCRIPT, "--tiny", "--exp", tmp_path, "--stage", "2")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("run.sh: none of the training sets (train) is in ")
