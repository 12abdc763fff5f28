"""Everything that a page shows of the experiments, read once.

A file that is damaged is left out and named in `Material.notes`; the rest of the page is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from speechssl import foreign_json, foreign_yaml
from speechssl.data.kaldi import read_mapping
from speechssl.data.manifest import Utterance, read_manifest
from speechssl.data.trials import Trials, read_trials
from speechssl.errors import UserError
from speechssl.evaluation.verification.measures import MEASURES
from speechssl.evaluation.verification.scoring import LARGEST_SCORE
from speechssl.files import RunFolder, refuse_unreadable_folder
from speechssl.report.page import untrusted
from speechssl.report.page.clips import Clips
from speechssl.report.page.finding import Found, find
from speechssl.report.results import Evaluation, Results, read_evaluation, read_results
from speechssl.report.summary import read_seconds

T = TypeVar("T")

UNTRAINED = "untrained"
"""Name of the system with random weights, which the others have to beat."""


@dataclass(frozen=True)
class Run:
    """A run of `speechssl train`.

    Attributes:
        name: shown.
        settings: its config.yaml.
        about: its about.yaml.
        log: a row a logged step.
    """

    name: str
    settings: dict[str, Any]
    about: dict[str, Any]
    log: list[dict[str, Any]]


@dataclass(frozen=True)
class ScoredTrials:
    """The trials of an evaluation and their scores (T,)."""

    trials: Trials
    scores: NDArray[np.float64]


@dataclass(frozen=True)
class SystemEvaluation:
    """An evaluation of speaker verification; `scored` only where its scores were kept.

    Attributes:
        system: shown name.
        results: name, trial list and measures.
        scored: trials and scores, or None.
        curve: what det.json holds, or None.
    """

    system: str
    results: Evaluation
    scored: ScoredTrials | None
    curve: dict[str, Any] | None

    @property
    def is_untrained(self) -> bool:
        """Whether this is the encoder with random weights, which the others have to beat."""
        return self.results.name == UNTRAINED


@dataclass(frozen=True)
class NamedFile:
    """A file and the name that it is shown by."""

    name: str
    path: Path


@dataclass(frozen=True)
class PageSettings:
    """What the user asked of the page.

    Attributes:
        map_points: most points of a map.
        map_method: ``auto``, ``tsne``, ``umap`` or ``pca``.
        clips: most utterances of a map that can be heard.
        seed: of every sample.
    """

    map_points: int = 2000
    map_method: str = "auto"
    clips: int = 60
    seed: int = 0


@dataclass
class Material:
    """What the page is made from.

    Attributes:
        experiments: folder names, as they are shown.
        chosen: the user's choices.
        clips: audio of the data directories.
        labels: name -> utterance -> value, from the data directories.
        runs, evaluations: see `Run`, `SystemEvaluation`.
        embeddings, clusters: files, by system.
        classifications, diagnoses, rounds: shown name -> what the file holds.
        seconds: shown name -> stage -> seconds.
        notes: what was left out, and why.
    """

    experiments: list[str]
    chosen: PageSettings
    clips: Clips
    labels: dict[str, dict[str, str]] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    evaluations: list[SystemEvaluation] = field(default_factory=list)
    embeddings: list[NamedFile] = field(default_factory=list)
    clusters: list[NamedFile] = field(default_factory=list)
    classifications: dict[str, Results] = field(default_factory=dict)
    diagnoses: dict[str, Results] = field(default_factory=dict)
    rounds: dict[str, Results] = field(default_factory=dict)
    seconds: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def attempt(self, read: Callable[[], T]) -> T | None:
        """Return what `read` returns, or None with a note if it raises a UserError."""
        try:
            return read()
        except UserError as error:
            if str(error) not in self.notes:  # several sections read the same files
                self.notes.append(str(error))
            return None


def collect(
    experiments: Sequence[Path], data: Sequence[Path], chosen: PageSettings, audio_budget: int
) -> Material:
    """Read the experiments and the data directories.

    Args:
        experiments: folders of results.
        data: Kaldi directories, for labels and audio.
        chosen: the user's choices.
        audio_budget: see `Clips`.

    Raises:
        UserError: an experiment is no folder or holds nothing that the page shows, or a data
            directory cannot be read.
    """
    utterances, labels = _read_data(data)
    names = _experiment_names(experiments)
    material = Material(names, chosen, Clips(utterances, audio_budget), labels)
    for root, prefix in zip(experiments, _prefixes(names), strict=True):
        if not root.is_dir():
            raise UserError(f"report: {root} is no folder; give the folder of an experiment")
        refuse_unreadable_folder("report", root)
        found = find(root)
        material.notes += found.unreadable
        if not (found.logs or found.evaluations or found.results or found.rounds):
            if found.unreadable:
                raise UserError(f"report: {found.unreadable[0]}")
            raise UserError(
                f"report: {root} holds no log.jsonl, results.json or pseudolabel.json; train or"
                " evaluate into it first"
            )
        _read_experiment(material, root, prefix, found)
    return material


def _read_data(
    data: Sequence[Path],
) -> tuple[dict[str, Utterance], dict[str, dict[str, str]]]:
    utterances: dict[str, Utterance] = {}
    labels: dict[str, dict[str, str]] = {}
    for directory in data:
        manifest = read_manifest(directory, "all", on_bad="skip")
        utterances.update({utterance.id: utterance for utterance in manifest})
        for name, values in manifest.labels.items():
            labels.setdefault(name, {}).update(values)
    return utterances, labels


def _experiment_names(experiments: Sequence[Path]) -> list[str]:
    """Return the last part of each path, or the whole path where two are alike."""
    names = [path.resolve().name for path in experiments]
    if len(set(names)) == len(names):
        return names
    return [str(path) for path in experiments]


def _prefixes(names: Sequence[str]) -> list[str]:
    return [""] if len(names) == 1 else [f"{name}: " for name in names]


def _read_experiment(material: Material, root: Path, prefix: str, found: Found) -> None:
    """Add what an experiment holds to the material."""
    for path in found.logs:
        run = material.attempt(partial(_read_run, root, prefix, path))
        if run is not None:
            material.runs.append(run)
    for path in found.evaluations:
        evaluation = material.attempt(partial(_read_evaluation, path))
        if evaluation is not None:
            system = prefix + evaluation.name
            scored = _read_scored(material, path.parent)
            curve = _read_curve(material, path.with_name("det.json"))
            material.evaluations.append(SystemEvaluation(system, evaluation, scored, curve))
    for path in found.embeddings:
        material.embeddings.append(NamedFile(prefix + _system_of(root, path), path))
    for path in found.clusters:
        material.clusters.append(NamedFile(prefix + _inside(root, path.parent), path))
    _read_objects(material, material.diagnoses, root, prefix, found.diagnoses)
    _read_objects(material, material.rounds, root, prefix, found.rounds)
    _read_objects(material, material.classifications, root, prefix, found.results)
    name = prefix.removesuffix(": ") or material.experiments[0]
    seconds = material.attempt(lambda: read_seconds(root / "seconds.tsv"))
    if seconds:
        material.seconds[name] = seconds


def _read_evaluation(path: Path) -> Evaluation:
    """Return an evaluation whose measures and intervals can be drawn.

    Raises:
        UserError: the file is damaged, or a measure is not finite.
    """
    evaluation = read_evaluation(path)
    for measure in MEASURES:
        value = evaluation.results.get(measure.name)
        ends = evaluation.results.get(f"{measure.name}_interval") or []
        for one in [*ends, value]:
            if one is not None and untrusted.finite(one) is None:
                raise UserError(f"report: {path}: {measure.name} is not finite; evaluate again")
    return evaluation


def _read_objects(
    material: Material, into: dict[str, Results], root: Path, prefix: str, paths: Sequence[Path]
) -> None:
    for path in paths:
        held = material.attempt(partial(read_results, path))
        if held is not None:
            into[prefix + _inside(root, path.parent)] = held


def _read_run(root: Path, prefix: str, log: Path) -> Run:
    folder = RunFolder(log.parent)
    settings = foreign_yaml.read(folder.config) if folder.config.exists() else {}
    about = foreign_yaml.read(folder.about) if folder.about.exists() else {}
    rows = [row for row in foreign_json.lines(log) if foreign_json.is_number(row.get("step"))]
    return Run(prefix + _inside(root, log.parent), settings, about, rows)


def _read_scored(material: Material, folder: Path) -> ScoredTrials | None:
    """Return trials and scores of an evaluation, where both were kept and fit each other."""
    trials = folder / "scored_trials"
    scores = folder / "scores"
    if not (trials.is_file() and scores.is_file()):
        return None
    return material.attempt(lambda: _scored(trials, scores))


def _scored(trials_path: Path, scores_path: Path) -> ScoredTrials:
    trials = read_trials(trials_path)
    values = []
    with foreign_json.damage(scores_path, "evaluate again"), open(scores_path, "rb") as file:
        for line in file:
            values.append(float(line.rpartition(b" ")[2]))
    scores = np.array(values)
    if len(scores) != len(trials) or not (np.abs(scores) < LARGEST_SCORE).all():
        raise UserError(
            f"{scores_path}: {len(scores)} scores of {len(trials)} trials, or numbers that are no"
            " scores; evaluate again"
        )
    if trials.target.all() or not trials.target.any():
        raise UserError(f"{trials_path}: targets and non-targets are both needed; evaluate again")
    return ScoredTrials(trials, scores)


def _read_curve(material: Material, path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    return material.attempt(lambda: foreign_json.read(path))


def _system_of(root: Path, path: Path) -> str:
    """Return the folders between `embeddings/` and the file, or those of a round."""
    inside = path.relative_to(root).parts[:-1]
    if "embeddings" in inside:
        inside = inside[inside.index("embeddings") + 1 :]
    return "/".join(inside) or root.resolve().name


def _inside(root: Path, path: Path) -> str:
    """Return a path within an experiment, or the experiment's own name."""
    inside = path.relative_to(root).as_posix()
    return root.resolve().name if inside == "." else inside


def clusters_of(material: Material) -> Mapping[str, Mapping[str, str]]:
    """Return shown name -> utterance -> cluster, for each file of clusters that can be read."""
    found = {}
    for file in material.clusters:
        read = material.attempt(partial(read_mapping, file.path))
        if read:
            found[file.name] = read
    return found
