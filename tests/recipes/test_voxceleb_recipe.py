"""recipes/voxceleb/run.sh, unmodified, on a VoxCeleb-shaped tree: all stages, killed once on the
way.
"""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from speechssl.audio import reading
from speechssl.corpora import synthetic

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {
    **os.environ,
    "SPEECHSSL_PYTHON": sys.executable,
}  # nothing is installed while tests run
RUN = ROOT / "recipes" / "voxceleb" / "run.sh"
LISTS = {"veri_test2.txt": (0, 3), "list_test_all2.txt": (0, 4), "list_test_hard2.txt": (1, 4)}


def generated(folder):
    """Speaker -> sound files, of generated voices."""
    made = {
        "speakers": 12,
        "utterances": 4,
        "evaluation_speakers": 4,
        "shortest": 1.0,
        "longest": 1.4,
    }
    synthetic.prepare(str(folder / "made"), str(folder / "kaldi"), **made)
    speakers = {}
    for part in ("eval", "train"):
        paths = dict(
            line.split(maxsplit=1)
            for line in (folder / "kaldi" / part / "wav.scp").read_text().splitlines()
        )
        for line in (folder / "kaldi" / part / "utt2spk").read_text().splitlines():
            name, speaker = line.split()
            speakers.setdefault(speaker, []).append(Path(paths[name]))
    return list(speakers.values())


def real(folder):
    """The same of arabic_commands, four utterances of each speaker."""
    root = Path(os.environ["SPEECHSSL_DATA"]) / "arabic_commands"
    rows = [line.split("\t") for line in (root / "utterances.tsv").read_text().splitlines()]
    path, speaker = rows[0].index("path"), rows[0].index("speaker")
    speakers = {}
    for row in rows[1:]:
        speakers.setdefault(row[speaker], []).append(root / row[path])
    return [files[:: max(1, len(files) // 4)][:4] for files in list(speakers.values())[:12]]


def write_m4a(path, wave):
    import av

    with av.open(str(path), "w", format="ipod") as out:
        stream = out.add_stream("aac", rate=16000, layout="mono")
        samples = (wave * 32767).astype(np.int16)[None]
        for start in range(0, samples.shape[1], 1024):
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(samples[:, start : start + 1024]), format="s16", layout="mono"
            )
            frame.sample_rate, frame.pts = 16000, start
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def corpus(folder, speakers):
    """vox1/ (4 speakers, and lists of trials), vox2/ (8 speakers, two in m4a), as they are
    unpacked.
    """
    for number, files in enumerate(speakers):
        first = number < 4
        top = (
            folder
            / ("vox1/wav" if first else "vox2/dev/aac")
            / f"id{10270 + number if first else number:05d}"
        )
        for count, file in enumerate(files):
            wave = reading.read(file, 16000)
            video = top / f"vid{count // 2}_{number:04d}"
            video.mkdir(parents=True, exist_ok=True)
            if not first and number < 6:
                write_m4a(video / f"{count:05d}.m4a", wave)
            else:
                soundfile.write(video / f"{count:05d}.wav", wave, 16000)
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
    rng = np.random.default_rng(0)
    for kind, part in (("noise", "free-sound"), ("music", "fma"), ("speech", "librivox")):
        (folder / "musan" / kind / part).mkdir(parents=True)
        for n in range(2):
            wave = 0.1 * rng.standard_normal(16000)
            soundfile.write(
                folder / "musan" / kind / part / f"{kind}-{part}-{n:04d}.wav", wave, 16000
            )
    room = folder / "RIRS_NOISES/simulated_rirs/smallroom/Room001"
    room.mkdir(parents=True)
    for n in range(2):
        wave = np.r_[1.0, 0.1 * rng.standard_normal(1599) * np.exp(-np.arange(1599) / 300)]
        soundfile.write(room / f"Room001-{n:05d}.wav", 0.5 * wave, 16000)


def configurations(folder):
    small = {
        "name": "ecapa",
        "width": 16,
        "scale": 2,
        "embedding_dim": 16,
        "attention_channels": 8,
        "se_channels": 8,
    }
    train = {"batch_size": 8, "precision": "float32", "log_every": 5, "save_every": 5, "threads": 1}
    dino = {
        "data": {
            "train": ["x"],
            "crops": [{"count": 2, "seconds": 0.6}, {"count": 2, "seconds": 0.3}],
            "workers": 0,
        },
        "features": {"n_mels": 24},
        "encoder": small,
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
        "smallest": 2,
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
def tree(request, tmp_path):
    pytest.importorskip("av", reason="m4a needs the extra av")
    corpus(tmp_path, request.param(tmp_path / "source"))
    noise_and_rooms(tmp_path)
    configurations(tmp_path)
    return tmp_path


def command(tree, *words):
    folders = [
        "--voxceleb1",
        "vox1",
        "--voxceleb2",
        "vox2",
        "--musan",
        "musan",
        "--rirs",
        "RIRS_NOISES",
    ]
    folders = [word if word.startswith("--") else str(tree / word) for word in folders]
    files = [
        "--lists",
        tree / "lists",
        "--config",
        tree / "dino.yaml",
        "--pseudolabel",
        tree / "rounds.yaml",
    ]
    where = [
        "--data",
        tree / "data",
        "--exp-dir",
        tree / "exp",
        "--nj",
        "2",
        "--ngpu",
        "1",
        "--cohort",
        "2",
    ]
    more = ["--partial", "yes", "--trials", "O", "--device", "cpu", "--average", "3"]
    return ["bash", str(RUN), *folders, *map(str, files), *map(str, where), *more, *words]


def test_every_stage_runs_and_a_killed_one_goes_on(tree):
    process = subprocess.Popen(
        command(tree, "--stop-stage", "3"),
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

    done = subprocess.run(command(tree), capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "[stage 1]" not in done.stderr  # not done again
    assert "--resume" in done.stderr
    exp = tree / "exp"
    steps = [json.loads(line)["step"] for line in (exp / "dino/log.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps)) and steps[-1] == 30  # each step once, in spite of the kill
    rows = {(r["name"], r["list"]): r for r in json.loads((exp / "record.json").read_text())}
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
    rounds = json.loads((exp / "pseudolabel/pseudolabel.json").read_text())
    assert len(rounds["rounds"]) == 3 and rounds["labels_used"] == [] and rounds["large_margin"]
    assert (exp / "export/config.json").exists()
    assert "| round-2-mean | aam_softmax |" in (exp / "record.md").read_text()

    again = subprocess.run(command(tree), capture_output=True, text=True, env=ENVIRONMENT)
    assert again.returncode == 0
    assert set(re.findall(r"\[stage (\d+)\]", again.stderr)) == {"10"}


def test_what_is_missing_is_one_line(tmp_path):
    done = subprocess.run(
        ["bash", str(RUN), "--exp-dir", str(tmp_path)],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
    )
    assert done.returncode == 2
    assert (
        done.stderr.strip().splitlines()[-1] == "run.sh: give --voxceleb1 DIR and --voxceleb2 DIR"
    )
    done = subprocess.run(
        ["bash", str(RUN), "--stages", "3"], capture_output=True, text=True, env=ENVIRONMENT
    )
    assert done.returncode == 2 and "Stages: 1 prepare" in done.stderr
