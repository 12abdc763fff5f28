"""Files of known voices, calibrations, classifiers, indices, federations, true turns and sweeps.

Each may be somebody else's: whatever stands in it, the verb that reads it answers or says one line.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
import yaml
from builders import ECAPA, make_model, noise, write_audio
from hostile_runs import Cases, Runner
from safetensors import safe_open

from speechssl.data.vectors.files import write_vectors
from speechssl.finetune.classifier import Classifier
from speechssl.finetune.saved import SavedClassifier

Change = Callable[[Path], object]
ESCAPE = "\x1b[31m\u202e<script>=cmd()"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, runner: Runner) -> Path:
    """A model, two small directories, and what the verbs make of them."""
    root = tmp_path_factory.mktemp("world")
    for name, first in (("a", 0), ("b", 6)):
        lines = []
        for number in range(first, first + 6):
            path = write_audio(root / name / f"u{number}.wav", noise(0.6, seed=number))
            lines.append(f"u{number} {path}\n")
        (root / name / "wav.scp").write_text("".join(lines))
        speakers = [f"u{number} s{number % 3}\n" for number in range(first, first + 6)]
        (root / name / "utt2spk").write_text("".join(speakers))
    model = make_model()
    model.save(root / "model")
    classifier = Classifier(model.encoder, torch.randn(8, model.dim), 3)
    SavedClassifier(model, classifier, ["x", "y", "z"], {}).save(root / "classifier")
    settings: dict[str, Any] = {
        "data": {
            "train": [str(root / "a"), str(root / "b")],
            "crops": [{"count": 2, "seconds": 0.3}],
            "workers": 0,
        },
        "features": {"n_mels": 24},
        "augment": None,
        "encoder": ECAPA,
        "method": {"name": "simsiam", "hidden": 8, "projection": 4},
        "train": {"batch_size": 4, "precision": "float32", "threads": 1},
        "federated": {"rounds": 1, "local_steps": 1, "strategy": "fedema"},
    }
    (root / "federated.yaml").write_text(yaml.safe_dump(settings))
    rng = np.random.default_rng(0)
    write_vectors(
        root / "e.npz", np.array([f"u{n}" for n in range(300)]), rng.normal(size=(300, 8))
    )
    for words, out in (
        ("register {r}/model {r}/a --out {r}/voices.safetensors", "voices.safetensors"),
        ("index {r}/e.npz --out {r}/flat", "flat"),
        ("index {r}/e.npz --kind ivfpq --out {r}/ivfpq", "ivfpq"),
        ("federate {r}/federated.yaml --device cpu --out {r}/federation", "federation"),
    ):
        done = runner.run([word.format(r=root) for word in words.split()], out=root / out)
        assert done.code == 0, done.stderr
        assert done.problems == []
    return root


def attempt(runner: Runner, root: Path, words: list[object], refused: bool | None) -> str:
    """Run a verb that writes `out`; return what did not hold."""
    return runner.run([str(word) for word in words], out=root / "out", root=root).problem(refused)


def voices_file(world: Path, path: Path, about: dict[str, Any], **arrays: Any) -> None:
    """Write the voices of the world with other names, numbers or texts."""
    with safe_open(str(world / "voices.safetensors"), "numpy") as file:
        known = json.loads(file.metadata()["speechssl voices"])
        held = {name: file.get_tensor(name) for name in ("embeddings", "voice")}
    metadata = {"speechssl voices": json.dumps({**known, **about})}
    safetensors.numpy.save_file({**held, **arrays}, str(path), metadata)


VOICES: dict[str, tuple[dict[str, Any], dict[str, Any], bool | None]] = {
    "as registered": ({}, {}, False),
    "embeddings of another size": ({}, {"embeddings": np.ones((6, 3), np.float32)}, True),
    "numbers whose squares are infinite": (
        {}, {"embeddings": np.full((6, 12), 3e38, np.float32)}, True,
    ),
    "embeddings of zeros": ({}, {"embeddings": np.zeros((6, 12), np.float32)}, None),
    "a voice that is called unknown": ({"names": ["s0", "s1", "unknown"]}, {}, True),
    "a name of a megabyte": ({"names": ["s0", "s1", "s2" * 500_000]}, {}, True),
    "names for a terminal": ({"names": ["a", "b", "z" + ESCAPE]}, {}, None),
    "a name of two lines": ({"names": ["a\nb\tc", "s1", "s2"]}, {}, None),
    "a model that is a list": ({"model": ["x"]}, {}, True),
}  # fmt: skip


def test_files_of_voices(world: Path, runner: Runner, cases: Cases, tmp_path: Path) -> None:
    for name, (about, arrays, refused) in VOICES.items():
        root = tmp_path / "case"
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        path = root / "out"  # `register --add` writes it
        words: list[object] = ["identify", world / "model", root / "v.safetensors", world / "b"]
        voices_file(world, root / "v.safetensors", about, **arrays)
        problem = attempt(runner, root, [*words, "--out", path], refused)
        cases.record("files of voices", f"identify: {name}", problem)
        path = root / "v.safetensors"
        words = ["register", world / "model", world / "b", "--add", "--out", path]
        done = runner.run([str(word) for word in words], out=path, root=root, own=[path])
        cases.record("files of voices", f"register --add: {name}", done.problem(refused))
    cases.hold()


def test_scores_to_calibrate_on(world: Path, runner: Runner, cases: Cases, tmp_path: Path) -> None:
    (tmp_path / "trials").write_text("a b target\nc d nontarget\n")
    for score in ("inf", "-inf", "nan", "1e308", "1_0", "0x1", "٣"):
        (tmp_path / "scores").write_text(f"a b {score}\nc d 0.1\n")
        words: list[object] = ["verify", world / "model", world / "a/u0.wav", world / "a/u1.wav"]
        words += ["--calibration", tmp_path / "scores", "--trials", tmp_path / "trials"]
        is_refused = True if not math.isfinite(_number(score)) or score == "1e308" else None
        cases.record("scores", score, attempt(runner, tmp_path, words, is_refused))
    cases.hold()


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return 0.0


TENSORS: dict[str, tuple[dict[str, torch.Tensor], bool | None]] = {
    "as saved": ({}, False),
    "8 bits": ({"mean": torch.zeros(12).to(torch.float8_e4m3fn)}, True),
    "complex": ({"mean": torch.zeros(12, dtype=torch.complex64)}, True),
    "flags": ({"mean": torch.zeros(12, dtype=torch.bool)}, True),
    "NaN": ({"scale": torch.full((12,), float("nan"))}, True),
    "the largest numbers": ({"output.weight": torch.full((3, 12), 3e38)}, None),
}


def test_classifiers(world: Path, runner: Runner, cases: Cases, tmp_path: Path) -> None:
    for name, (tensors, refused) in TENSORS.items():
        folder = tmp_path / name
        shutil.copytree(world / "classifier", folder)
        path = folder / "classifier.safetensors"
        safetensors.torch.save_file({**safetensors.torch.load_file(path), **tensors}, path)
        words: list[object] = ["predict", folder, world / "b", "--out", tmp_path / "out"]
        cases.record("classifiers", name, attempt(runner, tmp_path, words, refused))
    cases.hold()


def about(**changes: Any) -> Change:
    def change(folder: Path) -> None:
        held = json.loads((folder / "index.json").read_text())
        (folder / "index.json").write_text(json.dumps({**held, **changes}))

    return change


def numbers(name: str, value: float) -> Change:
    def change(folder: Path) -> None:
        array = np.load(folder / name).copy()
        array[...] = value
        np.save(folder / name, array)

    return change


def mean_of(value: float) -> Change:
    def change(folder: Path) -> None:
        np.save(folder / "mean.npy", np.full(8, value, np.float32))
        about(has_mean=True)(folder)

    return change


def fifo(name: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return change


def lists_of(byte: bytes) -> Change:
    def change(folder: Path) -> None:
        path = folder / "lists-00000.bin"
        path.write_bytes(byte * path.stat().st_size)

    return change


def indices() -> Iterator[tuple[str, str, Change, bool | None]]:
    """Yield kind, name, change and whether it must be refused."""
    for kind in ("flat", "ivfpq"):
        yield kind, "as built", lambda folder: None, False
        yield kind, "a recall beyond floats", about(recall=10**400), None
        yield kind, "a mean that is NaN", mean_of(math.nan), True
        yield kind, "a mean that is infinite", mean_of(math.inf), True
        yield kind, "vectors that are NaN", numbers("vectors-00000.npy", math.nan), None
        yield kind, "ids that end before they begin", numbers("id-ends.npy", -5), True
        yield kind, "ids that end nowhere", numbers("id-ends.npy", 2**62), True
        yield kind, "ids from a FIFO", fifo("ids.bin"), True
        yield kind, "65,536 shards", about(shards=[1] * 65536), True
        yield kind, "a source for terminals", about(source=ESCAPE), False
    yield "flat", "vectors that are infinite", numbers("vectors-00000.npy", math.inf), True
    yield "ivfpq", "centroids that are NaN", numbers("centroids.npy", math.nan), None
    yield "ivfpq", "lists of rows that are not there", lists_of(b"\x7f"), True
    yield "ivfpq", "lists of no rows", lists_of(b"\xff"), None
    yield "ivfpq", "sizes that wrap around", numbers("sizes-00000.npy", 2**62), True


def test_indices(world: Path, runner: Runner, cases: Cases, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    for number, (kind, name, change, refused) in enumerate(indices()):
        folder = tmp_path / str(number)
        shutil.copytree(world / kind, folder)
        change(folder)
        words: list[object] = ["search", folder, world / "e.npz", "--top", "3"]
        problem = attempt(runner, tmp_path, [*words, "--out", tmp_path / "out"], refused)
        cases.record(f"an index, {kind}", name, problem)
    cases.hold()


def test_names_of_recordings_that_a_terminal_obeys(
    world: Path, runner: Runner, cases: Cases, tmp_path: Path
) -> None:
    folder = tmp_path / "audio"
    folder.mkdir()
    shutil.copy(world / "a/u0.wav", folder / "good.wav")
    (folder / "\x1b[31m\x1b]0;x\x07.wav").write_bytes(b"RIFF")
    (folder / os.fsdecode(b"\xff\x1b[2J.wav")).write_bytes(b"RIFF")
    model = world / "model"
    commands: dict[str, list[object]] = {
        "search": ["search", world / "flat12", folder, "--model", model],
        "identify": ["identify", model, world / "voices.safetensors", folder],
        "predict": ["predict", world / "classifier", folder],
    }
    embed: list[object] = ["embed", model, world / "a", "--out", tmp_path / "e.npz"]
    done = runner.run([str(word) for word in embed], out=tmp_path / "e.npz", root=tmp_path)
    assert done.problem(False) == ""
    if not (world / "flat12").exists():
        index = ["index", str(tmp_path / "e.npz"), "--out", str(world / "flat12")]
        assert runner.run(index, out=world / "flat12").problem(False) == ""
    for verb, words in commands.items():
        problem = attempt(runner, tmp_path, [*words, "--out", tmp_path / "out"], False)
        cases.record("names of recordings", verb, problem)
    cases.hold()


def turn(start: object, seconds: object, speaker: str) -> str:
    return f"SPEAKER u0 1 {start} {seconds} <NA> <NA> {speaker} <NA> <NA>\n"


TURNS: dict[str, tuple[Callable[[], str], bool | None]] = {
    "a true turn": (lambda: turn(0, 0.5, "a"), False),
    "30,000 turns at once": (
        lambda: "".join(turn(i * 1e-5, 1, f"s{i % 2}") for i in range(30_000)), False,
    ),
    "20,000 speakers": (
        lambda: "".join(turn(i * 1e-4, 1e-4, f"s{i}") for i in range(20_000)), True,
    ),
    "1,000 speakers": (lambda: "".join(turn(i * 1e-3, 0.1, f"s{i}") for i in range(1000)), False),
    "a turn after the end of time": (lambda: turn(1e300, 1, "a"), True),
    "a turn that is not a number": (lambda: turn("nan", 1, "a"), True),
    "a name of 100,000 letters": (lambda: turn(0, 1, "x" * 100_000), False),
    "a name that is a formula": (lambda: turn(0, 1, "$\\frac{1}{$" + ESCAPE), False),
}  # fmt: skip


def test_true_turns(world: Path, runner: Runner, cases: Cases, tmp_path: Path) -> None:
    for number, (name, (text, refused)) in enumerate(TURNS.items()):
        path = tmp_path / f"{number}.rttm"
        path.write_text(text())
        words: list[object] = ["diarize", world / "model", world / "a/u0.wav", "--reference", path]
        problem = attempt(runner, tmp_path, [*words, "--out", tmp_path / "out"], refused)
        cases.record("RTTM", name, problem)
    cases.hold()


def held_by(name: str, **changes: Any) -> Change:
    """Return what changes entries of a state, and makes the last round one that is still to do."""

    def change(folder: Path) -> None:
        for path in {folder / "server.pt", folder / name}:
            held = torch.load(path, weights_only=True)
            if path.name == "server.pt":
                held |= {"rounds_done": 0, "tasks_done": 0}
            else:
                held["answered"] = [0, ""]
            if path == folder / name:
                held |= changes
            torch.save(held, path)

    return change


def instead(name: str, make: Callable[[Path], object]) -> Change:
    def change(folder: Path) -> None:
        held_by("server.pt")(folder)
        (folder / name).unlink()
        make(folder / name)

    return change


SERVER = {
    "state": [[1], "x", {"a": 1}],
    "rounds_done": ["x", -1, 10**30, math.nan, torch.zeros(3)],
    "tasks_done": [None, math.inf],
    "centroids": ["zz", 5, "00" * 50],
}
CLIENT = {
    "method": [{"a": 1}, [1]],
    "answered": ["abc", [1]],
    "figures": [[1], {"loss": ESCAPE}],
    "divergence": ["x", torch.zeros(5), math.nan],
    "first_divergence": [None, -1.0],
}
RUN = {"optimizer": [{}], "rng": [torch.zeros(1)], "monitor": [3], "step": [-1]}


def federations() -> Iterator[tuple[str, Change, bool | None]]:
    yield "as it was", held_by("server.pt"), False
    for name, entries in (("server.pt", SERVER), ("clients/a/last.pt", CLIENT)):
        for key, values in entries.items():
            for value in values:
                yield f"{name}: {key} is {str(value)[:20]!r}", held_by(name, **{key: value}), True
    for key, values in RUN.items():
        for value in values:
            change = held_by("clients/a/last.pt", **{key: value})
            yield f"a client's {key} is {value!r}", change, None
    for name in ("log.jsonl", "clients/a/log.jsonl"):
        yield f"a link in the place of {name}", instead(name, link_out), False
        yield f"a FIFO in the place of {name}", instead(name, os.mkfifo), None
        yield f"a folder in the place of {name}", instead(name, os.mkdir), None
    for name in ("config.yaml", "clients/a/config.yaml"):
        yield f"{name} asks for the environment", text_of(name, "seed: ${oc.env:HOME}\n"), True
        yield f"{name} names code", text_of(name, "encoder: {name: 'os:_exit'}\n"), True


def link_out(path: Path) -> None:
    path.symlink_to(path.parents[-2] / "etc/hostname")


def text_of(name: str, text: str) -> Change:
    def change(folder: Path) -> None:
        held_by("clients/a/last.pt")(folder)
        (folder / name).write_text(text)

    return change


QUICK = 6


@pytest.mark.parametrize(
    "every", [QUICK, pytest.param(1, marks=pytest.mark.slow)], ids=["some", "all"]
)
def test_federations(world: Path, runner: Runner, cases: Cases, tmp_path: Path, every: int) -> None:
    for name, change, refused in list(federations())[::every]:
        folder = tmp_path / "out"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(world / "federation", folder)
        change(folder)
        words: list[object] = ["federate", world / "federated.yaml", "--device", "cpu", "--resume"]
        problem = attempt(runner, tmp_path, [*words, "--out", folder], refused)
        cases.record("federations", name, problem)
    cases.hold()


def test_results_of_a_sweep(cases: Cases, tmp_path: Path) -> None:
    from speechssl.sweep.measures import measure

    path = tmp_path / "eval/one/list/results.json"
    path.parent.mkdir(parents=True)
    for text in ('{"eer": ' + "9" * 400 + "}", "[1]", '{"eer": NaN}', '{"eer": "x"}', "[" * 10**5):
        path.write_text(text)
        found = measure(tmp_path, "one")
        is_known = "list/eer" in found and not math.isnan(found["list/eer"])
        cases.record("results of a sweep", text[:20], f"took {found}" if is_known else "")
    cases.hold()


def test_a_table_of_arms_that_is_no_file(runner: Runner, cases: Cases, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "zeros").symlink_to("/dev/zero")
    (tmp_path / "null").write_bytes(b"a\0\tseed=1\n")
    for name in ("fifo", "zeros", "null"):
        words: list[object] = ["sweep", "dino-small", "--arms", tmp_path / name]
        problem = attempt(runner, tmp_path, [*words, "--out", tmp_path / "out"], True)
        cases.record("tables of arms", name, problem)
    cases.hold()
