"""Audio of every container, broken by a seeded fuzzer: the bad are listed, the good embedded.

Each command gets a folder of broken files with a good one among them. It must end by itself, in
bounded memory, with every file accounted for; the good one must have the embedding that it has alone.
"""

from pathlib import Path

import hostile_audio
import numpy as np
import pytest
from hostile_runs import Cases, Outcome, Runner

from speechssl.audio import reading

GOOD = "good.wav"
SEEDS = {kind: (ending, data) for kind, ending, data in hostile_audio.seeds()}


def embed(runner: Runner, folder: Path, out: Path) -> tuple[Outcome, str]:
    """Embed a folder; return the outcome, and what is wrong with it."""
    outcome = runner.run(["embed", "mfcc", folder, "--out", out], out=out)
    problem = outcome.problem(refused=False)
    if problem:
        return outcome, problem
    with np.load(out) as data:
        embedded = set(data["ids"].tolist())
        finite = bool(np.isfinite(data["embeddings"]).all())
        rows = {str(name): row for name, row in zip(data["ids"], data["embeddings"], strict=True)}
    failed = set()
    failed_list = Path(f"{out}.failed")
    if failed_list.exists():
        lines = failed_list.read_text(encoding="utf-8").splitlines()
        failed = {line.split("\t")[0] for line in lines}
    given = {path.name for path in folder.iterdir()}
    if embedded | failed != given or embedded & failed:
        problem = f"not accounted for: {sorted(given ^ (embedded | failed))[:3]}"
    elif GOOD not in embedded or not np.allclose(rows[GOOD], ALONE[0], rtol=1e-4, atol=1e-4):
        problem = "the good recording has another embedding"
    elif not finite:
        problem = "an embedding that is not finite"
    return outcome, problem


ALONE: list[np.ndarray] = []
"""The embedding of the good recording alone, made by the first test that needs it."""


@pytest.fixture(autouse=True)
def good_alone(runner: Runner, tmp_path: Path) -> None:
    if ALONE:
        return
    folder = tmp_path / "alone"
    hostile_audio.write_all(folder, {GOOD: hostile_audio.wav()})
    out = tmp_path / "alone.npz"
    assert runner.run(["embed", "mfcc", folder, "--out", out], out=out).code == 0
    with np.load(out) as data:
        ALONE.append(data["embeddings"][0])


def attack(
    runner: Runner, cases: Cases, kind: str, files: dict[str, tuple[str, bytes]], root: Path
) -> None:
    """Embed and validate a folder of broken files; if that does not hold, find out which ones.

    Args:
        runner: runs the commands.
        cases: counts every file.
        kind: of the files, the attack of the table.
        files: name -> what was done to it, and the bytes.
        root: for the folders.
    """
    bytes_of = {name: data for name, (_, data) in files.items()}
    folder = root / "data" / "broken"
    hostile_audio.write_all(folder, {GOOD: hostile_audio.wav(), **bytes_of})
    _, problem = embed(runner, folder, root / "out.npz")
    kaldi = root / "data" / "kaldi"
    kaldi.mkdir()
    lines = [f"{number:05d} {folder / name}\n" for number, name in enumerate([GOOD, *files])]
    (kaldi / "wav.scp").write_text("".join(lines))
    ids = [line.split()[0] for line in lines]
    (kaldi / "utt2spk").write_text("".join(f"{name} {name}\n" for name in ids))
    checked = runner.run(["validate", kaldi, "--read-audio"], out=root / "none")
    problem = problem or checked.problem()
    if f"{folder / GOOD}:" in checked.stdout:
        problem = problem or "validate lists the good recording"
    for number, (name, (what, data)) in enumerate(files.items()):
        found = ""
        if problem:
            alone = root / f"one-{number}" / "audio"
            hostile_audio.write_all(alone, {GOOD: hostile_audio.wav(), name: data})
            _, found = embed(runner, alone, root / f"one-{number}.npz")
            found = found or read_by_validate(runner, alone / name, root / f"one-{number}")
        cases.record(kind, f"{what} ({name})", found)
    cases.record(kind, "all of them in one folder", problem)


def read_by_validate(runner: Runner, path: Path, root: Path) -> str:
    kaldi = root / "kaldi"
    kaldi.mkdir()
    (kaldi / "wav.scp").write_text(f"a {path}\n")
    (kaldi / "utt2spk").write_text("a a\n")
    return runner.run(["validate", kaldi, "--read-audio"], out=root / "none").problem()


def broken(kind: str, count: int, seed: int) -> dict[str, tuple[str, bytes]]:
    ending, data = SEEDS[kind]
    files = {}
    for number, (what, copy) in enumerate(hostile_audio.mutants(data, count, seed)):
        files[f"{number:04d}{ending}"] = (what, copy)
    return files


@pytest.mark.parametrize("kind", SEEDS)
def test_a_recording_of_each_container_is_embedded(kind: str, tmp_path: Path) -> None:
    """Or else the fuzzer would break what was never read."""
    ending, data = SEEDS[kind]
    path = tmp_path / f"a{ending}"
    path.write_bytes(data)
    assert 0.9 < len(reading.read(path, 16000)) / 16000 < 1.4


def test_broken_recordings(runner: Runner, cases: Cases, tmp_path: Path) -> None:
    for kind in SEEDS:
        root = tmp_path / kind.replace(" ", "-")
        attack(runner, cases, f"audio: {kind}", broken(kind, 1, seed=0), root)
    cases.hold()


@pytest.mark.slow
@pytest.mark.parametrize("kind", SEEDS)
def test_many_broken_recordings(kind: str, runner: Runner, cases: Cases, tmp_path: Path) -> None:
    files = broken(kind, 40, seed=1)
    # As many whole recordings first: what libraries and a full batch take is not the attack's doing.
    ending, data = SEEDS[kind]
    whole = tmp_path / "whole"
    hostile_audio.write_all(whole, {f"{number}{ending}": data for number in range(len(files))})
    runner.run(
        ["embed", "mfcc", whole, "--out", tmp_path / "whole.npz"], out=tmp_path / "whole.npz"
    )
    attack(runner, cases, f"audio: {kind}", files, tmp_path)
    cases.hold()


def test_headers_that_lie(runner: Runner, cases: Cases, tmp_path: Path) -> None:
    files = {}
    for number, (name, (ending, data)) in enumerate(hostile_audio.lying_headers().items()):
        files[f"{number:04d}{ending}"] = (name, data)
    attack(runner, cases, "audio: headers that lie", files, tmp_path)
    cases.hold()
