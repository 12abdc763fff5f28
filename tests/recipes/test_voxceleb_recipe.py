"""recipes/voxceleb/run.sh, unmodified, on a VoxCeleb-shaped tree: all stages, killed once on the
way.
"""

import itertools
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from builders import (
    ECAPA,
    ENVIRONMENT,
    RATE,
    noise,
    read_json,
    run_script,
    script_command,
    write_audio,
    write_m4a,
)

from speechssl.audio import reading
from speechssl.data.manifest import read_manifest

RUN = "recipes/voxceleb/run.sh"
LISTS = {"veri_test2.txt": (0, 3), "list_test_all2.txt": (0, 4), "list_test_hard2.txt": (1, 4)}


def generated(voices):
    """Sound files of each speaker, of generated voices."""
    speakers = {}
    for part in ("eval", "train"):
        manifest = read_manifest(voices / part, labels=["spk"])
        for utterance in manifest.utterances:
            speaker = manifest.labels["spk"][utterance.id]
            speakers.setdefault(speaker, []).append(Path(utterance.path))
    return list(speakers.values())


def real(voices):
    """The same of arabic_commands, four utterances of each speaker."""
    root = Path(os.environ["SPEECHSSL_DATA"]) / "arabic_commands"
    rows = [line.split("\t") for line in (root / "utterances.tsv").read_text().splitlines()]
    path, speaker = rows[0].index("path"), rows[0].index("speaker")
    speakers = {}
    for row in rows[1:]:
        speakers.setdefault(row[speaker], []).append(root / row[path])
    return [files[:: max(1, len(files) // 4)][:4] for files in list(speakers.values())[:12]]


def corpus(folder, speakers):
    """vox1/ (4 speakers, and lists of trials), vox2/ (8 speakers, two in m4a), as they are
    unpacked.
    """
    for number, files in enumerate(speakers):
        in_vox1 = number < 4
        if in_vox1:
            top = folder / "vox1/wav" / f"id{10270 + number}"
        else:
            top = folder / "vox2/dev/aac" / f"id{number:05d}"
        for count, file in enumerate(files):
            wave = reading.read(file, RATE)
            path = top / f"vid{count // 2}_{number:04d}" / f"{count:05d}"
            if not in_vox1 and number < 6:
                write_m4a(path.with_suffix(".m4a"), wave)
            else:
                write_audio(path.with_suffix(".wav"), wave)
    (folder / "lists").mkdir()
    names = sorted(
        p.relative_to(folder / "vox1/wav").as_posix() for p in (folder / "vox1/wav").rglob("*.wav")
    )
    for file, (start, stop) in LISTS.items():
        chosen = [n for n in names if start <= int(n[2:7]) - 10270 < stop]
        pairs = itertools.combinations(chosen, 2)
        lines = [
            f"{int(a[:7] == b[:7])} {a} {b}"
            for a, b in pairs
            if a[:7] != b[:7] or a[8:12] != b[8:12]
        ]
        (folder / "lists" / file).write_text("\n".join(lines) + "\n")


def noise_and_rooms(folder):
    for kind, part in (("noise", "free-sound"), ("music", "fma"), ("speech", "librivox")):
        for n in range(2):
            path = folder / "musan" / kind / part / f"{kind}-{part}-{n:04d}.wav"
            write_audio(path, noise(1.0, seed=n))
    decay = np.exp(-np.arange(1599) / 300)
    for n in range(2):
        response = np.r_[1.0, decay * noise(1599 / RATE, seed=n)]
        path = folder / "RIRS_NOISES/simulated_rirs/smallroom/Room001" / f"Room001-{n:05d}.wav"
        write_audio(path, 0.5 * response)


def configurations(folder):
    train = {"batch_size": 8, "precision": "float32", "log_every": 5, "save_every": 5, "threads": 1}
    dino = {
        "data": {
            "train": ["x"],
            "crops": [{"count": 2, "seconds": 0.6}, {"count": 2, "seconds": 0.3}],
            "workers": 0,
        },
        "features": {"n_mels": 24},
        "encoder": ECAPA,
        "method": {"name": "dino", "prototypes": 16, "layers": 2, "hidden": 16, "bottleneck": 8},
        "train": {**train, "steps": 30},
    }
    aam = {
        "data": {"train": ["x"], "crops": [{"count": 1, "seconds": 0.6}], "workers": 0},
        "method": {"name": "aam_softmax", "subcentres": 2, "affine_first": 0.3, "gate": "dynamic"},
        "train": {**train, "steps": 6},
    }
    margin = {**aam, "method": {**aam["method"], "margin": 0.4, "affine_first": 0.0}}
    rounds = {
        "start": "set by run.sh",
        "data": ["set by run.sh"],
        "train": str(folder / "aam.yaml"),
        "large_margin": str(folder / "margin.yaml"),
        "clusterer": {"name": "kmeans_ahc", "n_centroids": 12, "n_clusters": 6},
        "min_cluster_size": 2,
    }
    for name, content in (("dino", dino), ("aam", aam), ("margin", margin), ("rounds", rounds)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))


@pytest.fixture(
    params=[
        generated,
        pytest.param(
            real,
            marks=[
                pytest.mark.slow,
                pytest.mark.skipif(
                    "SPEECHSSL_DATA" not in os.environ, reason="SPEECHSSL_DATA is not set"
                ),
            ],
        ),
    ]
)
def tree(request, voices, tmp_path):
    pytest.importorskip("av", reason="m4a needs the extra av")
    corpus(tmp_path, request.param(voices))
    noise_and_rooms(tmp_path)
    configurations(tmp_path)
    return tmp_path


def words(tree):
    """Arguments of the script."""
    folders = {"voxceleb1": "vox1", "voxceleb2": "vox2", "musan": "musan", "rirs": "RIRS_NOISES"}
    files = {"lists": "lists", "config": "dino.yaml", "pseudolabel": "rounds.yaml"}
    out = {"data": "data", "exp-dir": "exp"}
    found = []
    for name, path in {**folders, **files, **out}.items():
        found += [f"--{name}", tree / path]
    found += ["--nj", "2", "--ngpu", "1", "--cohort", "2", "--partial", "yes"]
    return [*found, "--trials", "O", "--device", "cpu", "--average", "3"]


def test_every_stage_runs_and_a_killed_one_goes_on(tree):
    process = subprocess.Popen(
        script_command(RUN, *words(tree), "--stop-stage", "3"),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=ENVIRONMENT,
    )
    limit = time.monotonic() + 300
    while (
        not (tree / "exp/dino/last.pt").exists()
        and process.poll() is None
        and time.monotonic() < limit
    ):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)  # in the middle of training
    said = process.communicate()[1]
    assert (tree / "exp/dino/last.pt").exists(), said[-2000:]
    assert "[stage 1]" in said and not (tree / "exp/done/train").exists()

    done = run_script(RUN, *words(tree))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "[stage 1]" not in done.stderr  # not done again
    assert "--resume" in done.stderr
    exp = tree / "exp"
    steps = [json.loads(line)["step"] for line in (exp / "dino/log.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps)) and steps[-1] == 30  # each step once, in spite of the kill
    rows = {(r["name"], r["list"]): r for r in read_json(exp / "record.json")}
    models = ("untrained", "dino", "round-1", "round-2", "round-2-large-margin")
    assert set(rows) == {
        (f"{m}-{s}", "vox1-O") for m in models for s in ("cosine", "mean", "asnorm")
    }
    for (name, _), row in rows.items():
        assert (
            0 <= row["eer"] <= 100
            and row["eer_interval"]
            and row["parameters"] > 0
            and row["commit"]
        )
        assert row["labels_used"] == "none"
        assert ("AS-norm" in row["scoring"]) == name.endswith("asnorm")
    rounds = read_json(exp / "pseudolabel/pseudolabel.json")
    assert len(rounds["rounds"]) == 3 and rounds["labels_used"] == [] and rounds["large_margin"]
    assert (exp / "export/config.json").exists()
    assert "| round-2-mean | aam_softmax |" in (exp / "record.md").read_text()

    again = run_script(RUN, *words(tree))
    assert again.returncode == 0
    assert set(re.findall(r"\[stage (\d+)\]", again.stderr)) == {"10"}


def test_what_is_missing_is_one_line(tmp_path):
    done = run_script(RUN, "--exp-dir", tmp_path)
    assert done.returncode == 2
    said = done.stderr.strip().splitlines()[-1]
    assert said == "run.sh: give --voxceleb1 DIR and --voxceleb2 DIR"
    done = run_script(RUN, "--stages", "3")
    assert done.returncode == 2 and "Stages: 1 prepare" in done.stderr
