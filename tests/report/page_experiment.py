"""A small experiment with everything that the page shows, written by hand: nothing is trained."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import soundfile
import yaml

from speechssl.data.trials import Trials
from speechssl.data.vectors.files import write_vectors
from speechssl.evaluation import clusters
from speechssl.evaluation.verification.verify import verify, write_results
from speechssl.report import det

RATE = 8000
SPEAKERS = 6
EACH = 5


def ids(prefix: str = "") -> list[str]:
    return [
        f"{prefix}s{speaker}-u{number}" for speaker in range(SPEAKERS) for number in range(EACH)
    ]


def embeddings(spread: float, seed: int = 0) -> np.ndarray:
    """Rows (30, 12) of 6 speakers; the wider the spread, the more they overlap."""
    generator = np.random.default_rng(seed)
    centres = np.repeat(generator.normal(size=(SPEAKERS, 12)), EACH, axis=0)
    return (centres + spread * generator.normal(size=centres.shape)).astype(np.float32)


def all_trials(names: list[str]) -> Trials:
    first, second = np.triu_indices(len(names), 1)
    speaker = np.arange(len(names)) // EACH
    array = np.array(names)
    return Trials(array[first], array[second], speaker[first] == speaker[second])


def evaluate(root: Path, system: str, names: list[str], matrix: np.ndarray) -> None:
    out = root / "eval" / system / "list"
    measured = verify((np.array(names), matrix), all_trials(names), replicates=20, model=system)
    write_results(out, measured, scores=True)
    assert measured.speakers is not None
    rows = det.band(measured.scores, measured.trials.target, measured.speakers, replicates=20)
    det.write_band(rows, out / "det.json")
    write_vectors(root / "embeddings" / system / "test.npz", names, matrix)


def run(root: Path, name: str, alarm: str | None = None, **settings: object) -> None:
    folder = root / name
    folder.mkdir(parents=True)
    data_settings = {"train": ["data"], "crops": [{"count": 2, "seconds": 2.0}]}
    written = {
        "seed": 0,
        "method": {"name": "dino", **settings},
        "encoder": {"name": "ecapa", "width": 128},
        "data": data_settings,
        "train": {"steps": 100},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(written))
    about = {
        "method": "dino",
        "commit": "0123456789abcdef+",
        "labels_used": "none",
        "data": {"utterances": 30, "hours": 0.5, "fingerprint": "feed", "directories": ["data"]},
    }
    (folder / "about.yaml").write_text(yaml.safe_dump(about))
    lines = []
    for step in range(10, 110, 10):
        row: dict[str, object] = {"step": step, "loss": 5 - step / 50, "lr": 1e-3, "kl": 0.5}
        if alarm and step == 50:
            row["alarms"] = [alarm]
        lines.append(json.dumps(row) + "\n")
    (folder / "log.jsonl").write_text("".join(lines))


def rounds(root: Path, names: list[str], matrix: np.ndarray) -> None:
    folder = root / "rounds"
    labels = np.arange(len(names)) // EACH
    results = []
    for number in range(2):
        figures = {"clusters": SPEAKERS, "kept": 30, "silhouette": 0.4, "cohesion": 0.8}
        one: dict[str, object] = {"round": number, "model": "x", "clusters": figures}
        if number:
            one["agreement"] = 0.9
        results.append(one)
        write_vectors(folder / f"round-{number}" / "embeddings.npz", names, matrix)
        clusters.write(folder / f"round-{number}" / "clusters", names, labels, figures)
    held = {"rounds": results, "chosen": 1, "stopped_by": "rounds", "labels_used": []}
    (folder / "pseudolabel.json").write_text(json.dumps(held))


def classification(root: Path, labels: list[str]) -> None:
    folder = root / "probe" / "emotion"
    folder.mkdir(parents=True)
    held = {
        "labels": labels,
        "confusion": [[8, 2], [1, 9]],
        "class_f1": dict.fromkeys(labels, 0.85),
        "macro_f1": 0.85,
        "macro_f1_interval": [0.7, 0.9],
        "micro_f1": 0.85,
        "uar": 0.85,
        "classifier": "logistic",
    }
    (folder / "results.json").write_text(json.dumps(held))


def data(root: Path, names: list[str]) -> Path:
    """Write a Kaldi directory with a tone of half a second for each utterance."""
    audio = root / "sound"
    audio.mkdir(parents=True)
    folder = root / "data"
    folder.mkdir()
    time = np.arange(RATE // 2) / RATE
    scp = []
    for place, name in enumerate(names):
        path = audio / f"{place}.wav"
        soundfile.write(path, 0.3 * np.sin(2 * np.pi * (200 + 40 * place) * time), RATE)
        scp.append(f"{name} {path}\n")
    speakers = [f"{name} speaker{place // EACH}\n" for place, name in enumerate(names)]
    emotions = [f"{name} {'calm' if place % 2 else 'angry'}\n" for place, name in enumerate(names)]
    (folder / "wav.scp").write_text("".join(scp))
    (folder / "utt2spk").write_text("".join(speakers))
    (folder / "utt2emotion").write_text("".join(emotions))
    (folder / "utt2dur").write_text("".join(f"{name} 0.5\n" for name in names))
    return folder


def experiment(root: Path, names: list[str] | None = None, labels: list[str] | None = None) -> Path:
    names = names or ids()
    good = embeddings(0.3)
    evaluate(root, "trained", names, good)
    evaluate(root, "untrained", names, embeddings(3.0))
    run(root, "dino")
    alarm = "collapse alarm: one way; likely cause: no centre; remedy: raise it"
    run(root, "other", alarm, prototypes=77)
    rounds(root, names, good)
    classification(root, labels or ["calm", "angry"])
    figures = {
        "rankme": {"value": 9.0, "low": 1, "high": 12, "verdict": "healthy", "tells": "rank"}
    }
    diagnosis = root / "diagnose" / "dino" / "diagnostics.json"
    diagnosis.parent.mkdir(parents=True)
    diagnosis.write_text(json.dumps({"model": "dino", "verdict": "healthy", "figures": figures}))
    (root / "seconds.tsv").write_text("train\t12\n")
    return root
