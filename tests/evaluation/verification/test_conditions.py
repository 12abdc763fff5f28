"""EER by shared labels: hand-made scores, an embedding of known mixture, the command."""

import json

import numpy as np
import pytest
from builders import write_table

from speechssl.cli import main
from speechssl.data.trials import Trials, write_trials
from speechssl.errors import UserError
from speechssl.evaluation.verification.conditions import split_by_label, with_models
from speechssl.evaluation.verification.verify import Verification, verify


def test_each_combination_is_the_eer_of_its_trials():
    enrol, test = np.array(list("aaaabbbb")), np.array(list("ABCDEFGH"))
    target = np.array([1, 1, 1, 1, 0, 0, 0, 0], bool)
    labels = dict(zip("abABCDEFGH", "xxxxyyxxyy", strict=True))  # same: A B E F
    scores = np.array([9.0, 8.0, 3.0, 1.0, 4.0, 2.0, 0.0, -1.0])
    rows = split_by_label(Verification({}, Trials(enrol, test, target), scores), labels)
    found = {(r["targets"], r["nontargets"]): r["eer"] for r in rows}
    # 9 8 or 3 1 against 4 2 or 0 -1; only the last pair of sets overlaps, and more is wrong than
    # right
    assert (
        found["same", "same"]
        == found["same", "different"]
        == found["different", "different"]
        == 0.0
    )
    assert found["different", "same"] >= 50
    assert all(
        r["target_trials"] == r["nontarget_trials"] == 2 and r["eer_interval"] is None for r in rows
    )
    with pytest.raises(UserError, match="'A' has no label"):
        split_by_label(Verification({}, Trials(enrol, test, target), scores), {"a": "x", "b": "x"})
    with pytest.raises(UserError, match="'b' has no speaker"):
        split_by_label(Verification({}, Trials(enrol, test, target), scores), labels, {"a": "s"})


def world(mixed, seed=0):
    """Embeddings = speaker + `mixed` x emotion + noise, every pair as a trial."""
    rng = np.random.default_rng(seed)
    voice, style = rng.normal(size=(12, 16)), mixed * rng.normal(size=(3, 16))
    who, what = np.repeat(np.arange(12), 6), np.tile(np.arange(3), 24)
    x = (voice[who] + style[what] + 0.7 * rng.normal(size=(72, 16))).astype("f4")
    ids = np.array([f"u{i:02d}" for i in range(72)])
    left, right = np.triu_indices(72, 1)
    trials = Trials(ids[left], ids[right], who[left] == who[right])
    return ids, x, trials, dict(zip(ids, what.astype(str))), dict(zip(ids, who.astype(str)))


def test_an_embedding_that_mixes_up_the_label_errs_where_it_should():
    def eers(mixed):
        ids, x, trials, labels, speakers = world(mixed)
        run = verify((ids, x), trials, replicates=0)
        rows = split_by_label(run, labels, speakers, replicates=50)
        assert all(r["eer_interval"][0] <= r["eer"] <= r["eer_interval"][1] + 3 for r in rows)
        return {(r["targets"], r["nontargets"]): r["eer"] for r in rows}

    mixed, clean = eers(1.5), eers(0.0)
    assert mixed["different", "same"] > 20 + mixed["same", "different"]
    assert max(clean.values()) - min(clean.values()) < 8


def test_the_command_shows_and_writes_the_rows(tmp_path, capsys):
    ids, x, trials, labels, speakers = world(1.0)
    np.savez(tmp_path / "e.npz", ids=ids, embeddings=x)
    write_trials(trials, tmp_path / "trials", style="voxceleb")
    for name, table in (("utt2emotion", labels), ("utt2spk", speakers)):
        write_table(tmp_path / name, table)
    words = [
        "evaluate",
        "verification",
        str(tmp_path / "e.npz"),
        "--trials",
        str(tmp_path / "trials"),
    ]
    words += [
        "--speakers",
        str(tmp_path),
        "--split",
        str(tmp_path / "utt2emotion"),
        "--replicates",
        "20",
    ]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    assert "targets different, non-targets same" in capsys.readouterr().out
    split = json.loads((tmp_path / "out" / "results.json").read_text())["split"]
    assert split["label"] == "utt2emotion" and len(split["rows"]) == 4


def test_a_model_has_the_label_that_its_utterances_share():
    labels = {"a": "x", "b": "x", "c": "y"}
    models = {"one": ["a", "b", "unknown"], "two": ["a", "c"], "none": ["unknown"]}
    assert with_models(labels, models) == {**labels, "one": "x", "two": "mixed"}
    assert with_models(labels, None) == labels
