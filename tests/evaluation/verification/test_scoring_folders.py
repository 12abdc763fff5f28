"""A folder of embeddings scores as a file does, and only what trials name is held."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from speechssl.cli.command import main
from speechssl.data.trials import Trials
from speechssl.data.vectors import files
from speechssl.data.vectors.files import write_vectors
from speechssl.data.vectors.folder import VectorFolder
from speechssl.data.vectors.folder_writer import part_bytes
from speechssl.errors import UserError
from speechssl.evaluation.verification.verify import verify

pytest.importorskip("pyarrow")

Rows = NDArray[np.float32]


def write(root: Path, name: str, prefix: str, rows: Rows) -> None:
    """Write `name`.npz and the folder `name`, of four files."""
    ids = [f"{prefix}{row}" for row in range(len(rows))]
    write_vectors(root / f"{name}.npz", ids, rows)
    (root / name).mkdir()
    for part in range(4):
        chosen = slice(part, None, 4)
        data = part_bytes(ids[chosen], rows[chosen], [1.0] * len(ids[chosen]))
        (root / name / f"part-{part}.parquet").write_bytes(data)


@pytest.fixture
def world(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    speakers = np.repeat(rng.standard_normal((20, 8)), 5, axis=0)
    write(tmp_path, "test", "t", (speakers + rng.standard_normal((100, 8))).astype(np.float32))
    write(tmp_path, "train", "r", (rng.standard_normal((300, 8)) + 1).astype(np.float32))
    return tmp_path


def trials(last: int = 40) -> Trials:
    first, second = np.triu_indices(last, 1)
    names = np.array([f"t{row}" for row in range(last)])
    return Trials(names[first], names[second], first // 5 == second // 5)


@pytest.mark.parametrize("moved", ["mean", "whiten", "cohort"])
def test_scores_are_those_of_a_file(world: Path, moved: str) -> None:
    of_file = verify(
        world / "test.npz", trials(), replicates=0, top=50, **{moved: world / "train.npz"}
    )
    of_folder = verify(world / "test", trials(), replicates=0, top=50, **{moved: world / "train"})
    np.testing.assert_allclose(of_folder.scores, of_file.scores, atol=1e-5)
    assert of_folder.results["scoring"] == of_file.results["scoring"]


def test_only_what_trials_name_is_held(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = []
    read = VectorFolder.read

    def watched(self: VectorFolder, only: object = None) -> object:
        held.append(read(self, only))  # type: ignore[arg-type]
        return held[-1]

    monkeypatch.setattr(files.VectorFolder, "read", watched)
    enrol = {"model": ["t90", "t91"]}
    verify(world / "test", trials(20), replicates=0, enrol=enrol, mean=world / "train")
    (ids, matrix) = held[0]
    assert len(held) == 1 and len(ids) == 22 and matrix.shape == (22, 8)


def test_test_embeddings_in_the_training_folder_are_found(world: Path) -> None:
    with pytest.raises(UserError, match="holds [0-9]+ test embeddings"):
        verify(world / "test", trials(10), replicates=0, mean=world / "test")


def test_trials_of_other_utterances_are_one_line(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (world / "others").write_text("x1 x2 target\nx1 x3 nontarget\n")
    for words in (["evaluate", "verification"], ["score"]):
        for source in ("test", "test.npz"):
            command = [*words, str(world / source), "--trials", str(world / "others")]
            command += ["--out", "-"] if words == ["score"] else []
            assert main(command) == 2
            error = capsys.readouterr().err
            assert "is it the right list? The embeddings have ids like 't" in error


def test_the_commands_take_a_folder(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = trials(20)
    lines = []
    for enrol, test, target in zip(chosen.enrol, chosen.test, chosen.target, strict=True):
        lines.append(f"{enrol} {test} {'target' if target else 'nontarget'}\n")
    (world / "trials").write_text("".join(lines))
    (world / "labels").write_text("".join(f"t{row} {row % 2}\n" for row in range(100)))
    (world / "groups").write_text("".join(f"t{row} g{row // 5}\n" for row in range(100)))
    commands = {
        "score": ["score", "EMB", "--trials", "trials", "--out", "-"],
        "nearest": ["score", "EMB", "--nearest", "3", "--out", "-"],
        "verification": ["evaluate", "verification", "EMB", "--trials", "trials", "--replicates", "0"],
        "classification": [
            "evaluate", "classification", "EMB", "--labels", "labels", "--groups", "groups",
            "--folds", "2", "--replicates", "0", "--beside", "train=EMB",
        ],
        "diagnose": ["diagnose", "EMB"],
    }  # fmt: skip
    for name, words in commands.items():
        printed = []
        for source in ("test.npz", "test"):
            places = {"EMB": source, "train=EMB": f"train={world / source}"}
            command = [places.get(word, word) for word in words]
            files_here = ("trials", "labels", "groups", "test.npz", "test")
            command = [str(world / word) if word in files_here else word for word in command]
            assert main(command) == 0, name
            printed.append(sorted(capsys.readouterr().out.splitlines()))
        if name in ("score", "verification", "diagnose"):
            assert printed[0] == printed[1], name
        assert len(printed[0]) == len(printed[1]), name
