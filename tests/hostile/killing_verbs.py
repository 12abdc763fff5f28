"""Every verb that writes, on small data, and what of its output must be the same after a kill."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet
import torch
import yaml
from starting import Fork, Process, run

TIMINGS = {"utterances_per_second", "data_wait", "seconds"}

TRAINING = {
    "data": {"crops": [{"count": 2, "seconds": 0.3}], "workers": 1},
    "features": {"n_mels": 24},
    "encoder": {
        "name": "ecapa", "width": 32, "scale": 4, "embedding_dim": 16,
        "attention_channels": 8, "se_channels": 8,
    },
    "optimizer": {"lr": 1e-3},
    "train": {
        "steps": 24, "batch_size": 4, "precision": "float32", "log_every": 3,
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
    "federate": Verb(words_of("federate {w}/federated.yaml --out {o} --device cpu"), ["--resume"]),
    "embed npz": Verb(words_of(EMBED + ".npz"), ["--resume"]),
    "embed ark": Verb(words_of(EMBED + ".ark"), ["--resume"]),
    "embed parquet": Verb(words_of(EMBED + ".parquet"), ["--resume"]),
    "embed --jobs 2": Verb(words_of(EMBED + ".npz --jobs 2"), ["--resume"]),
    "embed anew": Verb(words_of(EMBED + ".npz --jobs 2")),
    "embed to a folder": Verb(
        words_of("embed {w}/run/model {w}/data/train --out {o}"), ["--resume"]
    ),
    "index": Verb(words_of("index {w}/e.npz --out {o}")),
    "search": Verb(words_of("search {w}/index {w}/eval.npz --out {o}/neighbours.tsv")),
    "sweep": Verb(
        words_of(
            "sweep {w}/short.yaml seed=0,1 --evaluate {w}/data/eval --device cpu --jobs 2 --out {o}"
        )
    ),
    "cluster": Verb(words_of("cluster {w}/e.npz n_clusters=8 --out {o}")),
    "finetune": Verb(
        words_of(
            "finetune {w}/run/model {w}/data/train --labels {w}/data/train/utt2emotion"
            " --groups {w}/data/train/utt2spk --folds 2 --fractions 1 --affine-steps 5 --epochs 1"
            " --replicates 20 --device cpu --out {o} --save {o}/classifier"
        )
    ),
    "pseudolabel": Verb(words_of("pseudolabel {w}/pseudolabel.yaml --out {o} --device cpu")),
    "adapt": Verb(words_of("adapt {w}/run {w}/data/train --way last-layer --out {o} --device cpu")),
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
    "calibrate": Verb(
        words_of(
            "calibrate {w}/run/model {w}/eval.npz --trials {w}/data/eval/trials"
            " --out {o}/calibration.json"
        )
    ),
    "register": Verb(words_of("register {w}/run/model {w}/data/train --out {o}/v.safetensors")),
    "register --add": Verb(
        words_of("register {w}/run/model {w}/data/eval --out {o}/voices.safetensors --add"),
        given="voices",
    ),
    "identify": Verb(
        words_of(
            "identify {w}/run/model {w}/voices/voices.safetensors {w}/data/eval --out {o}/names.tsv"
        )
    ),
    "predict": Verb(words_of("predict {w}/classifier {w}/data/eval --out {o}/classes.tsv")),
    "diarize": Verb(words_of("diarize {w}/run/model {w}/data/eval --out {o}/turns --tables")),
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
    (folder / "short.yaml").write_text(yaml.safe_dump({**dino, "train": short}))
    clients = [str(folder / "data/train"), str(folder / "data/eval")]
    federated = {**dino, "data": {**data, "train": clients, "workers": 0}}
    federated["train"] = {name: value for name, value in short.items() if name != "steps"}
    federated["federated"] = {"rounds": 3, "local_steps": 3, "strategy": "fedema"}
    (folder / "federated.yaml").write_text(yaml.safe_dump(federated))
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
        "register {w}/run/model {w}/data/train --out {w}/voices/voices.safetensors",
        "index {w}/e.npz --out {w}/index",
        "finetune {w}/run/model {w}/data/train --labels {w}/data/train/utt2emotion"
        " --groups {w}/data/train/utt2spk --folds 2 --fractions 1 --affine-steps 5 --epochs 1"
        " --replicates 20 --device cpu --out {w}/finetuned --save {w}/classifier",
    ):
        run(folder, *words_of(words)(folder))
    return folder


@dataclass
class Unbroken:
    """What a verb writes when nothing happens to it.

    Attributes:
        first: seconds until it began to write.
        seconds: until it ended.
        bits: name of each file -> digest.
        pages: of 4096 bytes, that the files which it wrote take on a disk.
        largest: bytes of the largest of them.
    """

    first: float
    seconds: float
    bits: dict[str, str]
    pages: int
    largest: int


def unbroken(world: Path, verb: Verb, kind: type[Process] | type[Fork] = Fork) -> Unbroken:
    """Run a verb and remove its output again."""
    given = begin(world, verb)
    before = digests(world)
    began = time.monotonic()
    command = kind(world, verb.words(world))
    first = 0.0
    while command.poll() is None:
        if not first and has_written(world, given):
            first = time.monotonic() - began
        time.sleep(0.002)
    seconds = time.monotonic() - began
    assert command.returncode == 0, command.text()
    bits = digests(world)
    sizes = {
        str(path.relative_to(world)): path.stat().st_size
        for path in (world / "out").rglob("*")
        if path.is_file()
    }
    written = {name: size for name, size in sizes.items() if bits.get(name) != before.get(name)}
    pages = sum(-(-size // 4096) for size in written.values())
    found = Unbroken(first, seconds, bits, pages, max(written.values()))
    clear(world)
    return found


def has_written(world: Path, given: int) -> bool:
    """True if the output exists, and holds more than the `given` files of before."""
    out = world / "out"
    return out.exists() and len(list(out.rglob("*"))) > given


def begin(world: Path, verb: Verb) -> int:
    """Remove the output, or put what the verb adds to in its place; return the number of files."""
    clear(world)
    if not verb.given:
        return -1
    shutil.copytree(world / verb.given, world / "out")
    return len(list((world / "out").rglob("*")))


def clear(world: Path) -> None:
    """Remove the output."""
    for name in ("out", "tmp"):
        shutil.rmtree(world / name, ignore_errors=True)


def digests(world: Path) -> dict[str, str]:
    """Return name -> digest of each file of the output, and of what lies in TMPDIR.

    Timings do not count, nor the commit of the checkout, which may change meanwhile; TensorBoard's
    files have the time in their names. The state of a run counts by its values: how it is packed
    depends on which of its strings are one object. Of a folder of parquet files all rows together
    count: how many files they lie in depends on how often it was begun.
    """
    found = {}
    for folder in ("out", "tmp"):
        rows: list[str] = []
        for path in sorted((world / folder).rglob("*")):
            if path.is_dir() or has_timings_only(path) or is_cache_of_torch(path):
                continue
            if path.name.startswith("part-") and path.suffix == ".parquet":
                rows += [repr(row) for row in pyarrow.parquet.read_table(path).to_pylist()]
                continue
            digest = hashlib.sha256(content_of(path)).hexdigest()
            found[str(path.relative_to(world))] = digest[:12]
        if rows:
            digest = hashlib.sha256("\n".join(sorted(rows)).encode()).hexdigest()
            found[f"{folder}/part-*.parquet"] = digest[:12]
    return found


def has_timings_only(path: Path) -> bool:
    """True for what no two runs share: TensorBoard's files, and the logs and seconds of a sweep."""
    return "tensorboard" in path.parts or "logs" in path.parts or path.name == "seconds.tsv"


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
            if key not in TIMINGS:
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
