"""Every verb that writes, on small data, and what it takes to end one of them at any moment."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

TIMINGS = {"utterances_per_second", "data_wait", "seconds"}
MARK = "SPEECHSSL_BATTERY"
"""Environment variable that tells the processes of one try, however they were started."""

TRAINING = {
    "data": {"crops": [{"count": 2, "seconds": 0.5}], "workers": 1},
    "features": {"n_mels": 24},
    "encoder": {
        "name": "ecapa", "width": 32, "scale": 4, "embedding_dim": 16,
        "attention_channels": 8, "se_channels": 8,
    },
    "optimizer": {"lr": 1e-3},
    "train": {
        "steps": 60, "batch_size": 4, "precision": "float32", "log_every": 3,
        "save_every": 4, "threads": 1, "keep": 3,
    },
    "monitor": {"every": 9},
}  # fmt: skip
DINO = {"name": "dino", "prototypes": 16, "layers": 2, "hidden": 16, "bottleneck": 8}


def words_of(text: str) -> Callable[[Path], list[str]]:
    """Return the words of a command; `{w}` is the folder of the data, `{o}` that of the output."""

    def words(world: Path) -> list[str]:
        return [word.format(w=world, o=world / "out") for word in text.split()]

    return words


@dataclass(frozen=True)
class Verb:
    """A command that writes into `WORLD/out`, and how it is run again.

    Attributes:
        words: its arguments.
        again: what is added when it is run again.
        given: folder of the world that is copied to `out` first, for a verb that adds to it.
    """

    words: Callable[[Path], list[str]]
    again: list[str] = field(default_factory=list)
    given: str = ""


EMBED = "embed {w}/run/model {w}/data/train --out {o}/e"
VERBS = {
    "prepare synthetic": Verb(
        words_of(
            "prepare synthetic {o}/audio {o} --speakers 12 --evaluation-speakers 4 --utterances 8"
            " --shortest 1 --longest 1.4 --jobs 2"
        )
    ),
    "shard": Verb(words_of("shard {w}/data/train {o} --megabytes 1 --format wav --jobs 2")),
    "train": Verb(words_of("train {w}/train.yaml --out {o} --device cpu"), ["--resume"]),
    "embed npz": Verb(words_of(EMBED + ".npz"), ["--resume"]),
    "embed ark": Verb(words_of(EMBED + ".ark"), ["--resume"]),
    "embed parquet": Verb(words_of(EMBED + ".parquet"), ["--resume"]),
    "embed --jobs 2": Verb(words_of(EMBED + ".npz --jobs 2"), ["--resume"]),
    "embed anew": Verb(words_of(EMBED + ".npz --jobs 2")),
    "cluster": Verb(words_of("cluster {w}/e.npz n_clusters=8 --out {o}")),
    "finetune": Verb(
        words_of(
            "finetune {w}/run/model {w}/data/train --labels {w}/data/train/utt2emotion"
            " --groups {w}/data/train/utt2spk --folds 2 --fractions 1 --affine-steps 5 --epochs 1"
            " --replicates 20 --device cpu --out {o}"
        )
    ),
    "pseudolabel": Verb(words_of("pseudolabel {w}/pseudolabel.yaml --out {o} --device cpu")),
    "score": Verb(words_of("score {w}/eval.npz --all-pairs --out {o}/scores")),
    "evaluate verification": Verb(
        words_of(
            "evaluate verification {w}/eval.npz --trials {w}/data/eval/trials --replicates 20"
            " --out {o}"
        )
    ),
    "evaluate classification": Verb(
        words_of(
            "evaluate classification {w}/e.npz --labels {w}/data/train/utt2emotion"
            " --groups {w}/data/train/utt2spk --folds 2 --replicates 20 --out {o}"
        )
    ),
    "diagnose": Verb(words_of("diagnose {w}/e.npz --out {o}")),
    "report": Verb(words_of("report {o}"), given="experiment"),
    "report --compare": Verb(words_of("report {o} --compare"), given="experiment"),
    "average": Verb(words_of("average {w}/run --last 2 --out {o}")),
    "export": Verb(words_of("export {w}/run --to huggingface --out {o}")),
}


def make_world(folder: Path) -> Path:
    """Write the data, run and embeddings from which the verbs start."""
    run(folder, *words_of(
        "prepare synthetic {w}/audio {w}/data --speakers 12 --evaluation-speakers 4"
        " --utterances 8 --shortest 1 --longest 1.4"
    )(folder))  # fmt: skip
    data = {**TRAINING["data"], "train": [str(folder / "data/train")]}
    dino = {**TRAINING, "data": data, "method": DINO}
    (folder / "train.yaml").write_text(yaml.safe_dump(dino))
    short = {**TRAINING["train"], "steps": 6, "save_every": 2}
    classes = {**TRAINING, "method": {"name": "aam_softmax"}, "train": short}
    (folder / "classes.yaml").write_text(yaml.safe_dump(classes))
    rounds = {
        "start": str(folder / "run"),
        "data": [str(folder / "data/train")],
        "train": str(folder / "classes.yaml"),
        "clusterer": {"name": "kmeans", "n_clusters": 6},
        "rounds": 1,
    }
    (folder / "pseudolabel.yaml").write_text(yaml.safe_dump(rounds))
    run(folder, "train", str(folder / "train.yaml"), "train.steps=8", "--out", str(folder / "run"))
    for words in (
        "embed {w}/run {w}/data/train --out {w}/e.npz",
        "embed {w}/run {w}/data/eval --out {w}/eval.npz",
        "evaluate verification {w}/eval.npz --trials {w}/data/eval/trials --model run"
        " --replicates 20 --out {w}/experiment/eval/run/synthetic",
    ):
        run(folder, *words_of(words)(folder))
    return folder


def start(world: Path, *words: str, mark: str = "") -> subprocess.Popen[str]:
    """Start a command in a session of its own; its temporary folders lie in `WORLD/tmp`."""
    (world / "tmp").mkdir(exist_ok=True)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "TMPDIR": str(world / "tmp"),
        "OMP_NUM_THREADS": "1",
        MARK: mark,
    }
    return subprocess.Popen(
        [sys.executable, "-m", "speechssl", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=world,
        env=environment,
        start_new_session=True,
    )


def run(world: Path, *words: str) -> float:
    """Run a command to its end and return the seconds that it took."""
    began = time.monotonic()
    process = start(world, *words)
    text = process.communicate(timeout=600)[0]
    assert process.returncode == 0, text
    return time.monotonic() - began


@dataclass
class Unbroken:
    """What a verb writes when nothing happens to it.

    Attributes:
        first: seconds until it began to write.
        seconds: until it ended.
        bits: name of each file -> digest.
    """

    first: float
    seconds: float
    bits: dict[str, str]


def unbroken(world: Path, verb: Verb) -> Unbroken:
    """Run a verb and remove its output again."""
    begin(world, verb)
    given = len(list((world / "out").rglob("*"))) if verb.given else -1
    began = time.monotonic()
    process = start(world, *verb.words(world))
    first = 0.0
    while process.poll() is None:
        if not first and has_written(world, given):
            first = time.monotonic() - began
        time.sleep(0.005)
    seconds = time.monotonic() - began
    assert process.returncode == 0, process.stdout.read()
    found = Unbroken(first, seconds, digests(world))
    clear(world)
    return found


def has_written(world: Path, given: int) -> bool:
    """True if the output holds more than the so many files that were there before."""
    out = world / "out"
    return out.exists() and len(list(out.rglob("*"))) > given


def begin(world: Path, verb: Verb) -> None:
    """Remove the output; what the verb adds to is put in its place."""
    clear(world)
    if verb.given:
        shutil.copytree(world / verb.given, world / "out")


def clear(world: Path) -> None:
    """Remove the output."""
    for name in ("out", "tmp"):
        shutil.rmtree(world / name, ignore_errors=True)


def digests(world: Path) -> dict[str, str]:
    """Return name -> digest of each file of the output, and of what lies in TMPDIR.

    Timings do not count, nor the commit of the checkout, which may change meanwhile; TensorBoard's
    files have the time in their names. The state of a run counts by its values: how it is packed
    depends on which of its strings are one object.
    """
    found = {}
    for folder in ("out", "tmp"):
        for path in sorted((world / folder).rglob("*")):
            if path.is_dir() or "tensorboard" in path.parts or is_cache_of_torch(path):
                continue
            digest = hashlib.sha256(content_of(path)).hexdigest()
            found[str(path.relative_to(world))] = digest[:12]
    return found


def is_cache_of_torch(path: Path) -> bool:
    """True for what torch keeps in TMPDIR for later processes."""
    return any(part.startswith("torchinductor") for part in path.parts)


def content_of(path: Path) -> bytes:
    """Return what must be the same after a kill."""
    content = path.read_bytes()
    if path.name == "last.pt":
        parts: list[bytes] = []
        collect(torch.load(path, weights_only=True), parts)
        return b"\0".join(parts)
    if path.suffix == ".jsonl":
        entries = [without_timings(json.loads(line)) for line in content.splitlines()]
        return json.dumps(entries).encode()
    if path.suffix == ".json":
        return json.dumps(without_timings(json.loads(content))).encode()
    if path.suffix == ".yaml":
        lines = content.splitlines()
        return b"\n".join(line for line in lines if not line.lstrip().startswith(b"commit:"))
    return content


def collect(value: object, parts: list[bytes]) -> None:
    """Append all that a state holds."""
    if isinstance(value, torch.Tensor):
        parts.append(f"{value.dtype} {tuple(value.shape)}".encode())
        parts.append(value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    elif isinstance(value, dict):
        for key, item in value.items():
            parts.append(repr(key).encode())
            collect(item, parts)
    elif isinstance(value, list | tuple):
        parts.append(f"{len(value)}".encode())
        for item in value:
            collect(item, parts)
    else:
        parts.append(repr(value).encode())


def without_timings(value: Any) -> Any:
    """Return a value of JSON without the figures that no two runs share."""
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if key not in TIMINGS}
        return {key: without_timings(item) for key, item in kept.items()}
    if isinstance(value, list):
        return [without_timings(item) for item in value]
    return value


def processes_of(mark: str) -> list[int]:
    """Return the living processes of a try."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            if state != "Z" and wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


@dataclass
class End:
    """What was found after a command was ended.

    Attributes:
        code: its exit code.
        text: what it printed.
        children: processes that were alive 10 s later; they are ended.
        leftovers: temporary files.
    """

    code: int
    text: str
    children: int
    leftovers: list[str]


def end(world: Path, words: list[str], number: int, after: float, *, group: bool = False) -> End:
    """Start a command and send it a signal after so many seconds."""
    mark = uuid.uuid4().hex
    process = start(world, *words, mark=mark)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(after)
    if process.poll() is None:
        if group:
            os.killpg(process.pid, number)
        else:
            os.kill(process.pid, number)
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    deadline = time.monotonic() + 10
    while processes_of(mark) and time.monotonic() < deadline:
        time.sleep(0.05)
    alive = processes_of(mark)
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
    text = process.communicate(timeout=60)[0]
    return End(process.returncode, text, len(alive), leftovers(world))


def leftovers(world: Path) -> list[str]:
    """Return the temporary files and folders of a try."""
    found = []
    for folder in ("out", "tmp"):
        for path in (world / folder).rglob("*"):
            if is_cache_of_torch(path):
                continue
            is_hidden = path.name.startswith(".")
            if is_hidden or ".partial" in path.name or folder == "tmp":
                found.append(str(path.relative_to(world)))
    return found
