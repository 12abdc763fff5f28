"""Find the files of an experiment that the page reads, by their names alone.

Links to folders are not followed, and nothing that a file says makes another one be opened.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from speechssl.data.vectors.folder import is_part

DEEPEST = 6
"""Deepest level of folders inside an experiment that is searched."""

MOST_FILES = 50_000
"""At most so many files of one experiment are looked at."""

PASSED_OVER = ("snapshots", "tensorboard", "wandb", "mlflow", "audio", "data", "shards")
"""Folders that hold nothing for the page, and much else."""


@dataclass
class Found:
    """Files of one experiment.

    Attributes:
        logs: log.jsonl of runs.
        evaluations: results.json in eval/NAME/LIST.
        results: every other results.json.
        embeddings: .npz files and folders of parquet files in a folder `embeddings`, and those
            of pseudo-label rounds.
        clusters: utt2cluster files.
        diagnoses: diagnostics.json.
        rounds: pseudolabel.json.
        unreadable: a line for each folder that may not be read.
    """

    logs: list[Path] = field(default_factory=list)
    evaluations: list[Path] = field(default_factory=list)
    results: list[Path] = field(default_factory=list)
    embeddings: list[Path] = field(default_factory=list)
    clusters: list[Path] = field(default_factory=list)
    diagnoses: list[Path] = field(default_factory=list)
    rounds: list[Path] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


def find(root: Path) -> Found:
    """Return the files of an experiment, sorted by their paths."""
    found = Found()
    folders: dict[Path, None] = {}
    by_name = {
        "log.jsonl": found.logs,
        "utt2cluster": found.clusters,
        "diagnostics.json": found.diagnoses,
        "pseudolabel.json": found.rounds,
    }
    for path in sorted(_files(root, found.unreadable)):
        inside = path.relative_to(root).parts
        if path.name in by_name:
            by_name[path.name].append(path)
        elif path.name == "results.json" and len(inside) > 1:
            is_evaluation = len(inside) == 4 and inside[0] == "eval"
            (found.evaluations if is_evaluation else found.results).append(path)
        elif path.suffix == ".npz" and ("embeddings" in inside or path.stem == "embeddings"):
            found.embeddings.append(path)
        elif is_part(path.name) and "embeddings" in inside[:-1]:
            folders[path.parent] = None
    found.embeddings = sorted([*found.embeddings, *folders])
    return found


def _files(root: Path, unreadable: list[str]) -> Iterator[Path]:
    def note(error: OSError) -> None:
        unreadable.append(f"{error.filename}: cannot be read ({error.strerror}); make it readable")

    count = 0
    for folder, folders, names in os.walk(root, onerror=note):
        depth = len(Path(folder).relative_to(root).parts)
        folders[:] = sorted(name for name in folders if name not in PASSED_OVER)
        if depth >= DEEPEST:
            folders.clear()
        for name in names:
            count += 1
            if count > MOST_FILES:
                return
            yield Path(folder, name)
