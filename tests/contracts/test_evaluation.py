"""The keys of the result files stay: people script on them (speechssl/evaluation/README.md)."""

import math

import numpy as np
import pytest
from builders import read_json, write_table

from speechssl import parts
from speechssl.cli import main

KEYS = {
    "verification": {
        *("eer", "eer_interval", "min_dcf_0.01", "min_dcf_0.01_interval"),
        *("min_dcf_0.05", "min_dcf_0.05_interval", "trials"),
        *("scoring", "model", "labels_used"),
    },
    "classification": {
        *("micro_f1", "micro_f1_interval", "macro_f1", "macro_f1_interval", "uar", "uar_interval"),
        *("confusion", "folds", "model", "labels_used"),
    },
    "clusters": {"clusters", "kept", "nmi", "purity", "silhouette", "sha256"},
}
FILES = {"clusters": "clusters.json"}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Task -> what the command wrote of five speakers with two emotions."""
    folder = tmp_path_factory.mktemp("evaluation")
    rng = np.random.default_rng(0)
    speaker = np.repeat(np.arange(5), 8)
    emotion = np.tile([0, 1], 20)
    rows = rng.normal(size=(5, 12))[speaker] + rng.normal(size=(2, 12))[emotion]
    rows = (rows + 0.5 * rng.normal(size=rows.shape)).astype("f4")
    ids = [f"u{number:02d}" for number in range(40)]
    np.savez(folder / "e.npz", ids=np.array(ids), embeddings=rows)
    write_table(folder / "utt2spk", {name: f"s{who}" for name, who in zip(ids, speaker)})
    write_table(folder / "utt2emotion", {name: f"e{what}" for name, what in zip(ids, emotion)})
    trials = {}
    for left in range(40):
        for right in range(left):
            same = speaker[left] == speaker[right]
            trials[f"{ids[left]} {ids[right]}"] = "target" if same else "nontarget"
    write_table(folder / "trials", trials)

    embeddings = str(folder / "e.npz")
    common = ["--replicates", "20", "--model", "mine"]
    commands = {
        "verification": [
            *("evaluate", "verification", embeddings, *common),
            *("--trials", str(folder / "trials"), "--speakers", str(folder)),
        ],
        "classification": [
            *("evaluate", "classification", embeddings, *common),
            *("--labels", str(folder / "utt2emotion"), "--groups", str(folder)),
        ],
        "clusters": [
            *("cluster", embeddings, "n_clusters=5"),
            *("--reference", str(folder / "utt2spk")),
        ],
    }
    found = {}
    for task, command in commands.items():
        assert main([*command, "--out", str(folder / task)]) == 0
        found[task] = read_json(folder / task / FILES.get(task, "results.json"))
    return found


@pytest.mark.parametrize("task", parts.names("evaluation"))
def test_every_task_writes_its_keys(task, results):
    assert set(results[task]) >= KEYS[task]


@pytest.mark.parametrize("task", parts.names("evaluation"))
def test_numbers_are_finite_and_within_their_intervals(task, results):
    for key, value in results[task].items():
        if isinstance(value, float):
            assert math.isfinite(value), key
        if key.endswith("_interval") and value is not None:
            low, high = value
            figure = results[task][key.removesuffix("_interval")]  # of folds: one value each
            assert low <= np.mean(figure) <= high, key


def test_units(results):
    """Error rates in percent, F1 from 0 to 1; labels used for the scores: none."""
    verification, classification = results["verification"], results["classification"]
    assert verification["trials"] == 780
    assert 1 < verification["eer"] < 50 and 0 <= verification["min_dcf_0.05"] <= 1
    assert verification["model"] == "mine" and verification["labels_used"] == []
    assert 0.5 < classification["macro_f1"] <= 1
    assert np.sum(classification["confusion"]) == 40
