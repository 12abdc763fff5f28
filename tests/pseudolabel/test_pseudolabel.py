"""Rounds of pseudo-labelling on a few generated voices: what they leave, how they go on, what they
read.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from builders import ECAPA, make_model

from speechssl.cli import main
from speechssl.data.vectors.files import read_vectors
from speechssl.errors import UserError
from speechssl.pseudolabel import PseudoLabelSettings, pseudolabel, stopping
from speechssl.pseudolabel import rounds as rounds_of
from speechssl.train.loop import train
from speechssl.weights import read

ENCODER = {**ECAPA, "width": 32, "embedding_dim": 16}


@pytest.fixture
def start(tmp_path):
    make_model(ENCODER).save(tmp_path / "start")
    return tmp_path / "start"


@pytest.fixture
def configuration(voices, start, tmp_path):
    training = {
        "data": {"train": ["set by the loop"], "crops": [{"count": 1, "seconds": 0.5}], "workers": 0},
        "augment": {"rir_prob": 0.0},
        "method": {"name": "aam_softmax", "margin": 0.1},
        "train": {
            "steps": 4, "batch_size": 8, "precision": "float32", "threads": 1,
            "log_every": 2, "save_every": 2,
        },
    }  # fmt: skip
    (tmp_path / "aam.yaml").write_text(yaml.safe_dump(training))
    training["method"]["margin"] = 0.4
    training["data"]["crops"] = [{"count": 1, "seconds": 0.7}]
    (tmp_path / "margin.yaml").write_text(yaml.safe_dump(training))
    settings = {
        "start": str(start),
        "data": [str(voices / "train")],
        "train": str(tmp_path / "aam.yaml"),
        "clusterer": {"name": "kmeans", "n_clusters": 6},
    }
    (tmp_path / "pseudolabel.yaml").write_text(yaml.safe_dump(settings))
    return str(tmp_path / "pseudolabel.yaml")


def weights(folder):
    return read(folder / "weights.safetensors")


def same(one, two):
    return all(torch.equal(one[key], two[key]) for key in one)


def test_each_round_learns_the_clusters_of_the_one_before(configuration, start, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["pseudolabel", configuration, "--out", str(out), "--device", "cpu"]) == 0
    assert "round 2 of 2 chosen" in capsys.readouterr().out
    results = json.loads((out / "pseudolabel.json").read_text())
    assert [r["round"] for r in results["rounds"]] == [0, 1, 2]
    assert results["labels_used"] == [] and results["stopped_by"] == "rounds"
    for number in (1, 2):
        config = yaml.safe_load((out / f"round-{number}/train/config.yaml").read_text())
        assert config["data"]["pseudo_labels"] == str(
            out / f"round-{number - 1}/clusters/utt2cluster"
        )
        assert config["train"]["init"] == str(start)
        assert config["encoder"]["width"] == 32 and config["features"]["n_mels"] == 24
        assert 0 <= results["rounds"][number]["agreement"] <= 1
        state = torch.load(out / f"round-{number}/train/last.pt", weights_only=True)["method"]
        labels = (out / f"round-{number - 1}/clusters/utt2cluster").read_text().splitlines()
        assert len(state["labels"]) == len(labels) == 32
        assert len(state["centres"]) == len({line.split()[1] for line in labels}) == 6
    assert same(weights(out / "model"), weights(out / "round-2/train/model"))
    assert not same(weights(out / "model"), weights(start))


def test_a_run_that_was_killed_goes_on_to_the_same_end(configuration, tmp_path, monkeypatch):
    whole = pseudolabel(configuration, out=tmp_path / "whole", device="cpu")
    real, calls = rounds_of.train, []

    def killed(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(rounds_of, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        pseudolabel(configuration, out=tmp_path / "broken", device="cpu")
    monkeypatch.setattr(rounds_of, "train", real)
    again = pseudolabel(configuration, out=tmp_path / "broken", device="cpu")
    assert same(weights(tmp_path / "whole/model"), weights(tmp_path / "broken/model"))
    assert [r["clusters"]["silhouette"] for r in again["rounds"]] == [
        r["clusters"]["silhouette"] for r in whole["rounds"]
    ]


def test_shuffled_speakers_give_the_same_bits(configuration, voices, tmp_path):
    """DINO, clusters of it, training on them: with the true speakers in utt2spk, ids and paths, and
    with shuffled ones in utt2spk and none in ids and paths."""
    other = tmp_path / "other"
    other.mkdir()
    paths = [line.split() for line in (voices / "train/wav.scp").read_text().splitlines()]
    speakers = dict(line.split() for line in (voices / "train/utt2spk").read_text().splitlines())
    turned = np.random.default_rng(1).permutation([speakers[name] for name, _ in paths])
    assert turned.tolist() != [speakers[name] for name, _ in paths]
    lines = {"wav.scp": [], "utt2spk": []}
    for number, ((_, path), speaker) in enumerate(zip(paths, turned, strict=True)):
        hidden = other / f"{hash(path):x}{Path(path).suffix}"
        hidden.symlink_to(Path(path).resolve())
        lines["wav.scp"].append(f"u{number:04d} {hidden}")
        lines["utt2spk"].append(f"u{number:04d} {speaker}")
    for name, rows in lines.items():
        (other / name).write_text("\n".join(rows) + "\n")
    dino = yaml.safe_load((tmp_path / "aam.yaml").read_text())
    dino["method"] = {"name": "dino", "prototypes": 16, "layers": 2, "hidden": 16, "bottleneck": 8}
    dino |= {"features": {"n_mels": 24}, "encoder": ENCODER}
    dino["data"]["crops"] = [{"count": 2, "seconds": 0.5}]
    (tmp_path / "dino.yaml").write_text(yaml.safe_dump(dino))
    found = []
    for name, directory in (("true", voices / "train"), ("false", other)):
        run = tmp_path / name
        train(
            str(tmp_path / "dino.yaml"),
            [f"data.train=[{directory}]"],
            out=run / "dino",
            device="cpu",
        )
        settings = ["rounds=1", f"data=[{directory}]", f"start={run / 'dino/model'}"]
        pseudolabel(configuration, settings, out=run / "rounds", device="cpu")
        found.append([read_vectors(run / f"rounds/round-{n}/embeddings.npz")[1] for n in (0, 1)])
    np.testing.assert_array_equal(*(rounds[0] for rounds in found))
    np.testing.assert_array_equal(*(rounds[1] for rounds in found))
    assert not np.array_equal(found[0][0], found[0][1])


def test_the_large_margin_stage_goes_on_from_the_chosen_round(configuration, tmp_path):
    out = tmp_path / "out"
    more = ["rounds=1", f"large_margin={tmp_path / 'margin.yaml'}"]
    results = pseudolabel(configuration, more, out=out, device="cpu")
    assert results["large_margin"]
    config = yaml.safe_load((out / "round-1/large-margin/config.yaml").read_text())
    assert config["train"]["init_method"] == str(out / "round-1/train")
    assert config["method"]["margin"] == 0.4
    assert same(
        weights(out / "round-1/large-margin/untrained"), weights(out / "round-1/train/model")
    )
    assert same(weights(out / "model"), weights(out / "round-1/large-margin/model"))


def test_held_out_trials_choose_and_are_named(configuration, voices, tmp_path):
    more = ["rounds=1", "stop=eer", f"heldout={voices / 'eval'}"]
    results = pseudolabel(configuration, more, out=tmp_path / "out", device="cpu")
    errors = [r["heldout_eer"] for r in results["rounds"]]
    assert results["chosen"] == int(np.argmin(errors))
    assert results["labels_used"] == [f"held-out trials ({voices / 'eval'})"]


def rounds(key, values):
    if key == "silhouette":
        return [{"clusters": {"silhouette": value}} for value in values]
    return [{key: value} for value in values]


@pytest.mark.parametrize(
    ("stop", "key", "values", "enough", "best"),
    [
        ("never", "silhouette", [0.3, 0.1], False, 1),
        ("silhouette", "silhouette", [0.1, 0.3], False, 1),
        ("silhouette", "silhouette", [0.1, 0.3, 0.2], True, 1),
        ("agreement", "agreement", [0.5, 0.97], False, 1),
        ("agreement", "agreement", [0.5, 0.99], True, 1),
        ("eer", "heldout_eer", [9.0, 5.0], False, 1),
        ("eer", "heldout_eer", [9.0, 9.5], True, 0),
    ],
)
def test_when_it_stops_and_what_it_takes(stop, key, values, enough, best):
    settings = PseudoLabelSettings(start="", data=["d"], train="", clusterer={}, stop=stop)
    found = rounds(key, values)
    assert stopping.is_enough(settings, found) is enough
    assert stopping.best(settings, found) == best


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["rounds=-1"], "rounds=-1"),
        (["stop=eer"], "heldout"),
        (["round=3"], "did you mean|nearest|rounds"),
        (["clusterer.name=kmean"], "kmeans"),
        (["clusterer.n_clusters=500"], "cannot make 500 clusters; lower clusterer.n_clusters"),
        (["clusterer.n_clusters=0"], "kmeans: clusterer.n_clusters=0; give at least 1"),
        (["start=nowhere"], "nowhere"),
        (["min_cluster_size=30"], "nothing is left after filtering; relax min_cluster_size"),
    ],
)
def test_a_mistake_is_one_line(configuration, tmp_path, overrides, message):
    with pytest.raises(UserError, match=message):
        pseudolabel(configuration, overrides, out=tmp_path / "out", device="cpu")


def test_other_settings_in_the_same_folder_are_refused(configuration, tmp_path):
    pseudolabel(configuration, ["rounds=1"], out=tmp_path / "out", device="cpu")
    with pytest.raises(UserError, match="pca was 0.0"):
        pseudolabel(configuration, ["rounds=1", "pca=4"], out=tmp_path / "out", device="cpu")


def test_rounds_from_before_settings_were_renamed_go_on(configuration, tmp_path):
    pseudolabel(configuration, ["rounds=0"], out=tmp_path / "out", device="cpu")
    written = (tmp_path / "out/config.yaml").read_text()
    (tmp_path / "out/config.yaml").write_text(written.replace("min_cluster_size", "smallest"))
    pseudolabel(configuration, ["rounds=0"], out=tmp_path / "out", device="cpu")
    with pytest.raises(UserError, match="min_cluster_size was 1"):
        more = ["rounds=0", "min_cluster_size=2"]
        pseudolabel(configuration, more, out=tmp_path / "out", device="cpu")


@pytest.mark.slow
def test_two_processes_train_and_embed(configuration, tmp_path):
    command = [
        sys.executable,
        "-m",
        "speechssl",
        "pseudolabel",
        configuration,
        "--out",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(
        [*command, "--device", "cpu", "rounds=1", "processes=2"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    about = yaml.safe_load((tmp_path / "out/round-1/train/about.yaml").read_text())
    assert about["data"]["utterances"] == 32


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_rounds_over_a_folder_of_embeddings(configuration, tmp_path, processes):
    """What is streamed is clustered as well as what is held, and a second run finds all done."""
    pytest.importorskip("pyarrow")
    changes = ["streamed=true", "rounds=0", f"processes={processes}"]
    done = pseudolabel(configuration, changes, out=tmp_path / "streamed", device="cpu")
    held = pseudolabel(configuration, ["rounds=0"], out=tmp_path / "held", device="cpu")
    for key in ("utterances", "clusters"):
        assert done["rounds"][0]["clusters"][key] == held["rounds"][0]["clusters"][key]
    streamed = tmp_path / "streamed/round-0"
    ids, matrix = read_vectors(streamed / "embeddings")
    names, expected = read_vectors(tmp_path / "held/round-0/embeddings.npz")
    assert sorted(ids.tolist()) == sorted(names.tolist())
    np.testing.assert_allclose(
        matrix[np.argsort(ids)], expected[np.argsort(names)], atol=1e-5 * np.abs(expected).max()
    )
    before = (streamed / "clusters/utt2cluster").stat().st_mtime_ns
    pseudolabel(configuration, changes, out=tmp_path / "streamed", device="cpu")
    assert (streamed / "clusters/utt2cluster").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="streamed was True"):
        pseudolabel(configuration, ["rounds=0"], out=tmp_path / "streamed", device="cpu")
