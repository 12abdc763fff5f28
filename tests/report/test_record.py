"""The record says of every result whose it is, on what, scored how, and with which labels."""

import json

import pytest
from builders import make_model

from speechssl.cli import main


@pytest.fixture
def experiment(tmp_path):
    about = {
        "method": "dino", "seed": 3, "commit": "0123456789abcdef+", "labels_used": "none", "step": 9,
        "data": {"utterances": 1200, "hours": 2.5, "fingerprint": "ff"},
    }  # fmt: skip
    model = make_model(about=about)
    model.save(tmp_path / "model")
    found = {
        "eer": 4.381, "eer_interval": [4.1, 4.62], "min_dcf_0.01": 0.4, "min_dcf_0.05": 0.25,
        "trials": 37611, "scoring": "cosine", "labels_used": [], "model": str(tmp_path / "model"),
    }  # fmt: skip
    for name, extra in (
        ("dino", {}),
        ("mfcc", {"model": "mfcc", "labels_used": ["calibration trials"]}),
    ):
        folder = tmp_path / "eval" / name / "vox1_o"
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps({**found, **extra}))
    return tmp_path, sum(p.numel() for p in model.encoder.parameters())


def test_a_row_holds_what_a_comparison_needs(experiment, capsys):
    folder, parameters = experiment
    assert main(["report", str(folder), "--record"]) == 0
    rows = {row["name"]: row for row in json.loads((folder / "record.json").read_text())}
    dino = rows["dino"]
    assert dino["parameters"] == parameters and dino["seed"] == 3 and dino["list"] == "vox1_o"
    assert dino["labels_used"] == "none" and dino["method"] == "dino" and dino["trials"] == 37611
    assert (
        rows["mfcc"]["labels_used"] == "calibration trials, not known"
        and "parameters" not in rows["mfcc"]
    )
    text = (folder / "record.md").read_text()
    assert text.strip() == capsys.readouterr().out.strip()
    line = next(line for line in text.splitlines() if line.startswith("| dino"))
    for cell in (
        "4.38 [4.10, 4.62]",
        "1,200 utterances, 2.5 h",
        "0123456789+",
        "ecapa, width 16",
        "| none |",
    ):
        assert cell in line


def test_nothing_to_record_is_one_line(tmp_path, capsys):
    assert main(["report", str(tmp_path), "--record"]) == 2
    assert "evaluate verification" in capsys.readouterr().err
