"""Run folders that are damaged or somebody else's: whatever resumes or reads them says so in one line."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from builders import ECAPA, make_model, noise, write_audio
from hostile_runs import Cases, Runner

from speechssl import weights
from speechssl.errors import UserError
from speechssl.model import Model

VERBS = {
    "resume": ["train", "CONFIG", "--out", "RUN", "--resume"],
    "average": ["average", "RUN", "--out", "OUT"],
    "embed": ["embed", "RUN", "DATA", "--out", "OUT"],
    "embed, student": ["embed", "RUN", "DATA", "--network", "student", "--out", "OUT"],
    "diagnose": [
        "diagnose",
        "RUN",
        "DATA",
        "--utterances",
        "6",
        "--seconds",
        "0.3",
        "--out",
        "OUT",
    ],
    "start from it": ["train", "CONFIG", "train.init=RUN", "--out", "OUT"],
    "go on from its method": ["train", "CONFIG", "train.init_method=RUN", "--out", "OUT"],
    "pseudolabel": ["pseudolabel", "ROUNDS", "--out", "OUT"],
}
FILES = [
    "config.yaml", "about.yaml", "last.pt", "log.jsonl", "model/config.yaml",
    "model/weights.safetensors", "untrained/config.yaml", "untrained/weights.safetensors",
    "snapshots/step-00000002.pt", "snapshots/step-00000004.pt",
]  # fmt: skip


READ_BY_AVERAGE = ["config.yaml", "about.yaml", *FILES[-2:]]


def write_corpus(folder: Path) -> Path:
    lines = []
    for number in range(8):
        path = write_audio(folder / "audio" / f"{number}.wav", noise(0.6, seed=number))
        lines.append(f"u{number} {path}\n")
    (folder / "wav.scp").write_text("".join(lines))
    (folder / "utt2spk").write_text("".join(f"u{number} u{number}\n" for number in range(8)))
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, runner: Runner) -> Path:
    """A corpus, a configuration, and a run of four steps."""
    root = tmp_path_factory.mktemp("world")
    data = write_corpus(root / "data")
    settings: dict[str, Any] = {
        "data": {"train": [str(data)], "crops": [{"count": 2, "seconds": 0.3}], "workers": 0},
        "features": {"n_mels": 24},
        "augment": None,
        "encoder": ECAPA,
        "method": {"name": "dino", "prototypes": 8, "layers": 2, "hidden": 8, "bottleneck": 4},
        "train": {
            "steps": 4, "batch_size": 4, "precision": "float32", "log_every": 1, "save_every": 2,
            "threads": 1,
        },
    }  # fmt: skip
    (root / "config.yaml").write_text(yaml.safe_dump(settings))
    rounds = {
        "start": "RUN",
        "data": [str(data)],
        "train": str(root / "config.yaml"),
        "clusterer": {"name": "kmeans", "n_clusters": 2},
        "rounds": 1,
    }
    (root / "rounds.yaml").write_text(yaml.safe_dump(rounds))
    out = root / "run"
    done = runner.run(["train", root / "config.yaml", "--out", out], out=out)
    assert done.code == 0, done.stderr
    assert done.problems == []
    return root


class Copy:
    """A copy of the run for one case, and the words that use it."""

    def __init__(self, world: Path, place: Path) -> None:
        self.world = world
        self.root = place
        self.run = place / "run"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(world / "run", self.run)
        text = (world / "rounds.yaml").read_text().replace("RUN", str(self.run))
        (place / "rounds.yaml").write_text(text)

    def attempt(self, runner: Runner, verb: str, refused: bool | None = None) -> str:
        """Run a verb on the copy; return what did not hold."""
        out = self.root / ("out.npz" if verb.startswith("embed") else "out")
        places = {
            "CONFIG": self.world / "config.yaml",
            "ROUNDS": self.root / "rounds.yaml",
            "DATA": self.world / "data",
            "RUN": self.run,
            "OUT": out,
        }
        words = []
        for word in VERBS[verb]:
            for name, path in places.items():
                word = word.replace(name, str(path))
            words.append(word)
        target = self.run if verb == "resume" else out
        return runner.run(words, out=target, root=self.root).problem(refused)


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "pseudolabel"])
def test_the_run_is_good(verb: str, world: Path, tmp_path: Path, runner: Runner) -> None:
    assert Copy(world, tmp_path / "copy").attempt(runner, verb, refused=False) == ""


def cuts(size: int, count: int, seed: int) -> Iterator[int]:
    yield from (0, 1, size // 2, size - 1)
    rng = np.random.default_rng(seed)
    yield from rng.integers(0, size, count).tolist()


def other_contents(path: Path) -> dict[str, Callable[[], object]]:
    """Return what may stand in the place of a file: name -> how to make it."""
    shell = {"step": 4, "method": {}, "optimizer": {}, "rng": torch.zeros(1), "monitor": 3}
    return {
        "nothing": lambda: None,
        "noise": lambda: path.write_bytes(np.random.default_rng(0).bytes(5000)),
        "zeros": lambda: path.write_bytes(bytes(5000)),
        "a folder": path.mkdir,
        "a FIFO": lambda: os.mkfifo(path),
        "a device": lambda: path.symlink_to("/dev/zero"),
        "a link to itself": lambda: path.symlink_to(path.name),
        "a list": lambda: path.write_text("- 1\n- 2\n"),
        "a mapping of nothing": lambda: path.write_text("{}\n"),
        "another section": lambda: path.write_text("data: 3\nmethod: 4\nencoder: 5\n"),
        "a tensor": lambda: torch.save(torch.zeros(3), path),
        "numbers by name": lambda: torch.save({"a": 1}, path),
        "an empty state": lambda: torch.save({}, path),
        "a state of other types": lambda: torch.save(shell, path),
        "a state whose step is a word": lambda: torch.save({**shell, "step": "x"}, path),
        "another model's weights": lambda: weights.write(path, {"a": torch.zeros(2)}),
    }


class Battery:
    """Copies of a run, each with one file damaged, given to one verb."""

    def __init__(self, world: Path, place: Path, runner: Runner, cases: Cases, verb: str) -> None:
        self.world = world
        self.place = place
        self.runner = runner
        self.cases = cases
        self.verb = verb

    def record(self, kind: str, what: str, copy: Copy) -> None:
        problem = copy.attempt(self.runner, self.verb)
        self.cases.record(f"checkpoints: {kind}", f"{what}, {self.verb}", problem)

    def truncate(self, files: list[str], count: int) -> None:
        """Cut each file at `count` random positions and four more."""
        for name in files:
            size = (self.world / "run" / name).stat().st_size
            for cut in cuts(size, count, seed=len(name)):
                copy = Copy(self.world, self.place)
                with (copy.run / name).open("rb+") as file:
                    file.truncate(cut)
                self.record("truncated", f"{name} at {cut}", copy)

    def exchange(self, files: list[str]) -> None:
        """Put every other content in the place of each file."""
        for name in files:
            for what in other_contents(Path("none")):
                copy = Copy(self.world, self.place)
                (copy.run / name).unlink()
                other_contents(copy.run / name)[what]()
                self.record("exchanged", f"{name} is {what}", copy)


def test_damaged(world: Path, tmp_path: Path, runner: Runner, cases: Cases) -> None:
    battery = Battery(world, tmp_path / "copy", runner, cases, "average")
    battery.truncate(READ_BY_AVERAGE, count=0)
    battery.exchange(READ_BY_AVERAGE[::3])
    cases.hold()


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_truncated_for_every_verb(
    verb: str, world: Path, tmp_path: Path, runner: Runner, cases: Cases
) -> None:
    Battery(world, tmp_path / "copy", runner, cases, verb).truncate(FILES, count=4)
    cases.hold()


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_exchanged_for_every_verb(
    verb: str, world: Path, tmp_path: Path, runner: Runner, cases: Cases
) -> None:
    Battery(world, tmp_path / "copy", runner, cases, verb).exchange(FILES)
    cases.hold()


@pytest.mark.parametrize("name", FILES)
def test_a_link_in_the_place_of_a_file_is_not_written_through(
    name: str, world: Path, tmp_path: Path, runner: Runner, cases: Cases
) -> None:
    copy = Copy(world, tmp_path / "copy")
    canary = copy.root / "canary"
    canary.write_bytes((copy.run / name).read_bytes())
    (copy.run / name).unlink()
    (copy.run / name).symlink_to(canary)
    cases.record("checkpoints: links", f"{name}, resume", copy.attempt(runner, "resume"))
    cases.hold()


SHELLS: dict[str, Callable[[tuple[int, ...]], torch.Tensor]] = {
    "one number repeated": lambda shape: torch.zeros(()).expand(shape),
    "no storage": lambda shape: torch.empty(shape, device="meta"),
    "sparse": lambda shape: torch.sparse_coo_tensor(size=shape),
}  # fmt: skip


@pytest.mark.parametrize("kind", SHELLS)
def test_weights_larger_than_their_file_are_refused(kind: str, tmp_path: Path) -> None:
    """The configuration asks for 400 GB, and the weights seem to have it."""
    model = make_model()
    model.save(tmp_path)
    settings = yaml.safe_load((tmp_path / "config.yaml").read_text())
    settings["encoder"]["embedding_dim"] = 1 << 32
    dim = model.dim
    (tmp_path / "weights.safetensors").unlink()
    state = {}
    for name, value in model.encoder.state_dict().items():
        shape = tuple(1 << 32 if size == dim else size for size in value.shape)
        state[name] = SHELLS[kind](shape)
    torch.save(state, tmp_path / "weights.pt")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(UserError, match=r"\A[^\n]*no plain tensor[^\n]*\Z"):
        Model.load(tmp_path)


@pytest.mark.parametrize("verb", ["average", "embed, student"])
@pytest.mark.parametrize(
    "section", [{"encoder": {"embedding_dim": 1 << 32}}, {"method": {"prototypes": 1 << 34}}]
)
def test_a_run_that_asks_for_terabytes(
    verb: str, section: dict[str, Any], world: Path, tmp_path: Path, runner: Runner, cases: Cases
) -> None:
    copy = Copy(world, tmp_path / "copy")
    path = copy.run / "config.yaml"
    settings = yaml.safe_load(path.read_text())
    for name, changes in section.items():
        settings[name].update(changes)
    path.write_text(yaml.safe_dump(settings))
    refused = None if verb == "average" and "method" in section else True
    cases.record("checkpoints: claims", f"{section}, {verb}", copy.attempt(runner, verb, refused))
    cases.hold()
