"""recipes/methods/run.sh on generated voices: the unmodified script, from nothing to the table."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from speechssl import parts
from speechssl.train.settings import resolve

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "recipes" / "methods"


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


def test_the_tiny_form_goes_from_nothing_to_the_table_and_does_nothing_twice(tmp_path):
    chosen = "dimcl-byol simsiam-none c3_dino"
    command = ["bash", str(FOLDER / "run.sh"), "--tiny", "--exp", str(tmp_path), "--arms", chosen]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "comparison.json").read_text())
    assert set(found["arms"]) == {*chosen.split(), "untrained"}
    for name in chosen.split():
        arm = found["arms"][name]
        assert 0 <= arm["eer"]["eval"] <= 100 and arm["verdict"] and arm["seconds"] > 0
        assert {"rankme", "centre_norm", "uniformity", "arc"} <= set(arm["figures"])
    assert "| simsiam-none |" in done.stdout and "Spearman" in done.stdout
    assert (tmp_path / "comparison.png").stat().st_size > 5000
    again = subprocess.run(command, capture_output=True, text=True)
    assert (
        again.returncode == 0
        and "[stage 2]" not in again.stderr
        and "[stage 4]" not in again.stderr
    )


def test_an_unknown_arm_is_one_line(tmp_path):
    command = ["bash", str(FOLDER / "run.sh"), "--tiny", "--exp", str(tmp_path), "--arms", "byoll"]
    done = subprocess.run([*command, "--stage", "2"], capture_output=True, text=True)
    assert done.returncode == 2 and "no arm of conf/arms.tsv is named 'byoll'" in done.stderr
