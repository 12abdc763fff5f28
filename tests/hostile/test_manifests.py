"""Lhotse's manifests of somebody else: whatever they hold, a directory of what is good, or one line."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import noise, write_audio
from hostile_runs import Cases, Runner

from tests.hostile.test_reports import TEXTS, VALUES, places, replaced


def recording(path: Path) -> dict[str, Any]:
    return {
        "id": path.stem,
        "sources": [{"type": "file", "channels": [0], "source": str(path)}],
        "sampling_rate": 16000,
        "num_samples": 16000,
        "duration": 1.0,
        "transforms": [{"name": "Resample", "kwargs": {}}],
    }


def supervision(name: str) -> dict[str, Any]:
    return {
        "id": name,
        "recording_id": "a",
        "start": 0.0,
        "duration": 0.5,
        "channel": 0,
        "speaker": "ann",
        "gender": "f",
        "custom": {"emotion": "sad"},
    }


def cut(path: Path) -> dict[str, Any]:
    return {
        "id": "cut",
        "type": "MonoCut",
        "start": 0.0,
        "duration": 0.5,
        "channel": 0,
        "supervisions": [supervision("inside")],
        "recording": recording(path),
        "custom": {"room": "hall"},
    }


SOURCES = [
    ("command", "touch {marker}"),
    ("command", "touch {marker} |"),
    ("file", "touch {marker} |"),
    ("file", "| touch {marker}"),
    ("url", "http://127.0.0.1:9/a.wav"),
    ("file", "http://127.0.0.1:9/a.wav"),
    ("url", "file:///etc/passwd"),
    ("url", "simplecache::http://127.0.0.1:9/a.wav"),
    ("file", "/etc/passwd"),
    ("file", "/dev/zero"),
    ("file", "/dev/stdin"),
    ("file", "/proc/kmsg"),
    ("file", "../" * 9 + "etc/passwd"),
    ("file", "/etc/passwd:0:9.wav"),
    ("memory", "UklGRg=="),
    ("shar", ""),
    ("shar_ptr", "a.tar?o=0&e=9"),
]


def prepare(runner: Runner, root: Path, name: str, rows: list[Any]) -> str:
    """Prepare a manifest of these rows behind a good one; return what did not hold."""
    path = root / name
    good = recording(root / "a.wav") if "cuts" not in name else cut(root / "a.wav")
    lines = [json.dumps(row) for row in [good, *rows]]
    path.write_text("\n".join(lines) + "\n")
    outcome = runner.run(["prepare", "lhotse", path, root / "out"], out=root / "out", root=root)
    problem = outcome.problem(refused=False)
    if not problem and not (root / "out" / "wav.scp").read_text():
        problem = "the good entry was lost"
    path.unlink()
    return problem


def variants(entry: dict[str, Any]) -> Iterator[tuple[str, list[Any]]]:
    """Yield a value, and the entry with it in every place."""
    for value in VALUES:
        rows = [replaced(entry, place, value) for place in places(entry) if place]
        for number, row in enumerate(rows):
            if isinstance(row.get("id"), str):
                row["id"] += f"-{number}"
        yield repr(value)[:30], rows


@pytest.mark.parametrize("kind", ["recordings", "cuts"])
def test_every_value_in_every_place(
    kind: str, runner: Runner, cases: Cases, tmp_path: Path
) -> None:
    audio = write_audio(tmp_path / "a.wav", noise(1.0), 16000)
    entry = recording(audio) if kind == "recordings" else cut(audio)
    for value, rows in variants(entry):
        cases.record(kind, value, prepare(runner, tmp_path, f"{kind}.jsonl", rows))
    cases.hold()


def test_every_value_in_every_place_of_a_supervision(
    runner: Runner, cases: Cases, tmp_path: Path
) -> None:
    audio = write_audio(tmp_path / "a.wav", noise(1.0), 16000)
    folder = tmp_path / "manifests"
    folder.mkdir()
    (folder / "recordings.jsonl").write_text(json.dumps(recording(audio)))
    for value, rows in variants(supervision("s")):
        lines = [json.dumps(row) for row in [supervision("good"), *rows]]
        (folder / "supervisions.jsonl").write_text("\n".join(lines))
        command = ["prepare", "lhotse", folder, tmp_path / "out"]
        outcome = runner.run(command, out=tmp_path / "out", root=tmp_path)
        cases.record("supervisions", value, outcome.problem(refused=False))
    cases.hold()


def test_sources_that_run_or_ask_or_block(runner: Runner, cases: Cases, tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", noise(1.0), 16000)
    marker = tmp_path / "ran"
    for kind, place in SOURCES:
        bad = recording(tmp_path / "b.wav")
        source = place.format(marker=marker)
        bad["sources"] = [{"type": kind, "channels": [0], "source": source}]
        problem = prepare(runner, tmp_path, "recordings.jsonl", [bad])
        listed = (tmp_path / "out" / "wav.scp").read_text()
        if not problem and len(listed.splitlines()) != 1:
            problem = f"wav.scp has {listed!r}"
        cases.record("sources", f"{kind} {place}", problem or ("ran" if marker.exists() else ""))
    cases.hold()


@pytest.mark.slow
def test_texts_that_are_no_manifest(runner: Runner, cases: Cases, tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", noise(1.0), 16000)
    good = json.dumps(recording(tmp_path / "a.wav")).encode() + b"\n"
    bombs = {
        "blank lines": b"\n" * 3_000_000,
        "blanks": b" " * 100_000_000,
        "empty objects": b"{}\n" * 3_000_000,
        "one recording": good * 1_000_000,
    }
    for name, data in {**TEXTS, **bombs}.items():
        for ending in (".jsonl", ".json", ".jsonl.gz"):
            path = tmp_path / f"recordings{ending}"
            content = data if ending == ".json" else good + data
            path.write_bytes(gzip.compress(content, 1) if ending.endswith("gz") else content)
            command = ["prepare", "lhotse", path, tmp_path / "out"]
            outcome = runner.run(command, out=tmp_path / "out", root=tmp_path)
            cases.record("texts", f"{name}{ending}", outcome.problem())
            path.unlink()
    cases.hold()
