"""Fine-tuning in every fold, for several shares of the training labels."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from speechssl.data.manifest import Utterance
from speechssl.embed import Embedder
from speechssl.embed.layers import POOLED
from speechssl.errors import UserError
from speechssl.evaluation.classification.classify import Classification, summarise
from speechssl.evaluation.classification.folds import Table, tabulate
from speechssl.finetune.saved import SavedClassifier
from speechssl.finetune.settings import FinetuneSettings
from speechssl.finetune.training import Trainer, embed
from speechssl.model import Model

_FIGURES = ("micro_f1", "macro_f1", "uar")  # of the curve, each with its interval


def finetune(
    model: Model,
    utterances: Sequence[Utterance],
    labels: Mapping[str, str],
    groups: Mapping[str, str],
    *,
    folds: int | Mapping[str, str] = 5,
    test_folds: Sequence[str] = (),
    fractions: Sequence[float] = (0.01, 0.05, 0.1, 1.0),
    settings: FinetuneSettings | None = None,
    device: str = "cpu",
    replicates: int = 1000,
    say: Callable[[str], None] = lambda _line: None,
    name: str | None = None,
    save: Path | None = None,
) -> Classification:
    """Fine-tune a copy of ``model`` in each fold and predict the utterances that are held out.

    Args:
        model: where to start from; it is not changed.
        utterances: of training and test.
        labels, groups, folds, test_folds, replicates: as for
            `evaluation.classification.evaluate`.
        fractions: shares of the training labels, above 0 and up to 1; the largest one
            gives the main figures.
        settings: of training.
        device: cpu, cuda ...
        say: called with a line of text after each fold.
        name: of the model, written into the results.
        save: a folder for a classifier (`finetune.saved`) that is trained, after the folds
            are measured, on all labelled utterances but those of ``test_folds``.

    Returns:
        As the probe; ``results["curve"]`` has a row for each fraction and step:
        ``fraction``, ``labels`` (mean over folds), ``step`` and the figures.

    Raises:
        UserError: no label, folds that share a group, an encoder without layers after
            pooling, a fraction out of range.
    """
    settings = settings or FinetuneSettings()
    _check(model, fractions)
    labelled = [utterance for utterance in utterances if utterance.id in labels]
    embedder = Embedder(copy.deepcopy(model), device, layer=POOLED)
    readable, pooled = embed(embedder, labelled)
    ids = np.array([utterance.id for utterance in readable])
    table = tabulate(ids, labels, groups, folds=folds, test_folds=test_folds, seed=settings.seed)
    classes, target = np.unique(table.truth, return_inverse=True)
    targets = torch.from_numpy(target).to(pooled.device)
    trainer = Trainer(model, readable, pooled, targets, settings, device)
    curve: list[dict[str, Any]] = []
    for fraction in sorted(set(fractions)):
        predicted, mean_labels = _predict_folds(trainer, table, target, fraction, say)
        for step in trainer.steps:
            measured = _summarise(table, classes[predicted[step]], settings, replicates, name)
            row = {"fraction": fraction, "labels": mean_labels, "step": step}
            curve.append(row | _curve_figures(measured.results))
    measured.results["curve"] = curve
    measured.results["unreadable"] = len(labelled) - len(readable)
    if save is not None:
        rows = _rows_outside(table, test_folds)
        _save_classifier(trainer, rows, classes, measured.results, save)
        say(f"classifier of {len(classes)} classes, trained on {len(rows)} utterances: {save}")
    return measured


def _rows_outside(table: Table, test_folds: Sequence[str]) -> NDArray[np.int64]:
    """Return the rows of a table that are in none of the folds that are for testing only."""
    return np.flatnonzero(~np.isin(table.fold, list(test_folds)))


def _save_classifier(
    trainer: Trainer,
    rows: NDArray[Any],
    classes: NDArray[np.str_],
    results: Mapping[str, Any],
    folder: Path,
) -> None:
    """Train a classifier on `rows` and write it, with the figures that the folds have shown."""
    model, classifier = trainer.fit(rows, [trainer.settings.seed])
    before = model.about.get("labels_used", "not known")
    used = "fine-tuning" if before in ("none", "not known") else f"{before}; fine-tuning"
    model.about = {**model.about, "labels_used": used}
    model.about.pop("calibration", None)  # it was of other embeddings
    about = {
        "trained_on": len(rows),
        "settings": asdict(trainer.settings),
        "measured_by_folds": _curve_figures(results),
    }
    SavedClassifier(model, classifier, classes.tolist(), about).save(folder)


def _check(model: Model, fractions: Sequence[float]) -> None:
    """Raise UserError for a model or fractions that fine-tuning cannot work with."""
    if not fractions or not all(0 < fraction <= 1 for fraction in fractions):
        raise UserError(
            f"finetune: fractions {list(fractions)} must be above 0 and at most 1, shares of the"
            " labels"
        )
    if not model.encoder.affine_layers():
        raise UserError("finetune: this encoder has no layers after pooling; use ecapa or resnet")


def _predict_folds(
    trainer: Trainer,
    table: Table,
    target: NDArray[Any],
    fraction: float,
    say: Callable[[str], None],
) -> tuple[dict[str, NDArray[np.int64]], float]:
    """Train on a fraction of each fold's labels and predict its test utterances.

    Returns:
        The predicted classes (N,) after each step, and the mean number of labels used
        in a fold.
    """
    seed = trainer.settings.seed
    predicted = {step: np.zeros(len(target), np.int64) for step in trainer.steps}
    counts = []
    for number, (fold, train, test) in enumerate(table.splits()):
        chosen = draw(np.flatnonzero(train), target, fraction, [seed, number])
        counts.append(len(chosen))
        accuracies = []
        for step, classes in trainer.run(chosen, np.flatnonzero(test), [seed, number]).items():
            predicted[step][test] = classes
            accuracies.append(f"{step} {(classes == target[test]).mean():.3f}")
        say(
            f"{fraction:.0%} of labels, {fold}: {len(chosen)} trained on; accuracy"
            f" {', '.join(accuracies)}"
        )
    return predicted, float(np.mean(counts))


def draw(
    rows: NDArray[Any], target: NDArray[Any], fraction: float, seed: Sequence[int]
) -> NDArray[Any]:
    """Draw a fraction of the rows of each class, at least one.

    With the same seed, a larger fraction contains the smaller one.

    Args:
        rows: what to draw from.
        target: (N,) class of every row, also of those not in ``rows``.
        fraction: above 0, up to 1.
        seed: of the draw.

    Returns:
        The rows that were drawn, sorted.
    """
    rng = np.random.default_rng(list(seed))
    chosen = []
    for value in np.unique(target[rows]):
        members = rng.permutation(rows[target[rows] == value])
        count = max(1, round(fraction * len(members)))
        chosen.append(members[:count])
    return np.sort(np.concatenate(chosen))


def _summarise(
    table: Table,
    predicted: NDArray[np.str_],
    settings: FinetuneSettings,
    replicates: int,
    name: str | None,
) -> Classification:
    about = {
        "classifier": "fine-tuned: the last affine layers, then everything",
        "balanced": settings.class_weight == "balanced",
        "settings": asdict(settings),
        "labels_used": ["fine-tuning"],
    }
    return summarise(table, predicted, about, replicates=replicates, seed=settings.seed, model=name)


def _curve_figures(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of the results that a row of the curve has."""
    return {key: value for key, value in results.items() if key.startswith(_FIGURES)}
