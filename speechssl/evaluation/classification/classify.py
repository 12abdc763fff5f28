"""Classification of utterances from frozen embeddings: emotion, language, or any other
``utt2<label>``.

One protocol for every corpus (recipes/README.md 6): folds that share no group (speaker), fixed and
written out; standardisation and the classifier's one setting chosen on the training folds only, by
folds of groups within them; micro-F1 (the accuracy), macro-F1, UAR, F1 of each class and the
confusion of all test folds together, with intervals over groups and over folds. They are compared
with the majority class of the training folds and, if given, with other embeddings of the same
utterances on the same folds (`comparing.py`).

Classes are weighted by the inverse of their frequency (UAR and macro-F1 count them alike) unless
one says not to; k-NN, LDA and MLP cannot do so, and the results say what was done (`balanced`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechssl import files, metrics
from speechssl.errors import UserError, writing
from speechssl.evaluation.classification.classifiers import Kind, choose, fitted, kinds
from speechssl.evaluation.classification.folds import Names, Table, tabulate

Rows = NDArray[np.float32]
Weights = NDArray[np.int64]

Measure = Callable[[metrics.Floats], float]

MEASURES: dict[str, Measure] = {
    "micro_f1": metrics.micro_f1_of,
    "macro_f1": metrics.macro_f1_of,
    "uar": metrics.uar_of,
}
"""Key in results.json -> function of the confusion (C, C), rows true and columns predicted."""


@dataclass(frozen=True)
class Classification:
    """A finished run.

    Attributes:
        results: see ``evaluate``.
        ids: (N,) utterances that were tested.
        truth: (N,) their labels.
        predicted: (N,) what was predicted.
        group: (N,) their groups.
        folds: utterance -> fold, of all that have a label.
    """

    results: dict[str, Any]
    ids: Names
    truth: Names
    predicted: Names
    group: Names
    folds: dict[str, str]


def evaluate(
    ids: Names,
    embeddings: Rows,
    labels: Mapping[str, str],
    groups: Mapping[str, str],
    *,
    folds: int | Mapping[str, str] = 5,
    test_folds: Sequence[str] = (),
    classifier: str = "logistic",
    balanced: bool = True,
    replicates: int = 1000,
    seed: int = 0,
    model: str | None = None,
) -> Classification:
    """Probe embeddings with a classifier.

    Args:
        ids: (N,) utterances. Those without a label are left out, and counted.
        embeddings: (N, D).
        labels: utterance -> class.
        groups: utterance -> the group (speaker) that no two folds may share.
        folds: how many, 0 = each group a fold of its own; or utterance -> name of its fold
            (official ones).
        test_folds: test on these only, trained on all that are not among them (official
            partitions); without, every fold is tested, trained on all others.
        classifier: ``logistic``, ``svm`` (linear), ``knn``, ``lda`` or ``mlp``.
        balanced: whether classes weigh alike in training (logistic, svm).
        replicates: bootstrap resamples of groups for the intervals, 0 for none.
        seed: of folds, classifier and bootstrap.
        model: written into the results.

    Returns:
        micro_f1, macro_f1, uar (0 to 1), each with ``_interval`` (95 %, over groups, or null),
        ``_folds`` (one value each) and ``_folds_interval`` (95 %, of their mean, or null);
        class_f1; labels; confusion (rows true, columns predicted); majority (the same three
        figures); folds (name -> groups); tested (names); chosen (the setting of each fold); counts.

    Raises:
        UserError: fewer than two classes or groups, a group in two folds, an unknown classifier, or
            embeddings that are not finite.
    """
    table = tabulate(ids, labels, groups, folds=folds, test_folds=test_folds, seed=seed)
    available = kinds(balanced, seed)
    if classifier not in available:
        raise UserError(
            f"classification: no classifier {classifier!r}; known: {', '.join(available)}"
        )
    kind = available[classifier]
    x = np.asarray(embeddings)[table.rows].astype(np.float64)
    is_broken = ~np.isfinite(x).all(1)
    if is_broken.any():
        raise UserError(
            f"classification: {int(is_broken.sum())} embeddings are not finite, first"
            f" {str(table.ids[is_broken.argmax()])!r}; embed them again"
        )
    predicted, chosen = _probe(table, x, kind)
    about = {
        "classifier": classifier,
        "balanced": kind.balanced,
        "chosen": chosen,
        "labels_used": ["probe"],
    }
    return summarise(table, predicted, about, replicates=replicates, seed=seed, model=model)


def _probe(table: Table, x: NDArray[np.float64], kind: Kind) -> tuple[Names, dict[str, Any]]:
    """Return the predictions (N,) for rows (N, D), and the chosen setting of each tested fold."""
    from threadpoolctl import threadpool_limits

    predicted = np.empty_like(table.truth)
    chosen = {}
    for name, train, test in table.splits():
        # One thread: matrices this small only suffer from more, badly so on a busy machine.
        with threadpool_limits(1):
            setting = choose(kind, x[train], table.truth[train], table.group[train])
            classifier = fitted(kind, setting, x[train], table.truth[train])
            predicted[test] = classifier.predict(x[test])
        chosen[name] = setting
    return predicted, chosen


def summarise(
    table: Table,
    predicted: Names,
    about: Mapping[str, Any],
    *,
    replicates: int = 1000,
    seed: int = 0,
    model: str | None = None,
) -> Classification:
    """Compute the figures of predictions.

    Args:
        table: the labelled utterances.
        predicted: (N,) classes, one for each row of ``table``; those of folds that are not tested
            do not count.
        about: goes into the results.
        replicates: bootstrap resamples of groups, 0 for none.
        seed: of the bootstrap.
        model: written into the results.
    """
    majority = _majority(table)
    kept = np.isin(table.fold, table.tested)
    truth = table.truth[kept]
    group = table.group[kept]
    results: dict[str, Any] = {}
    for key, measure in MEASURES.items():
        results |= measured(key, measure, truth, predicted[kept], group, replicates, seed)
        results |= _over_folds(key, measure, truth, predicted[kept], table.fold[kept])
    results |= _per_class(truth, predicted[kept])
    _, of_majority = metrics.contingency(truth, majority[kept])
    results["majority"] = {key: measure(of_majority) for key, measure in MEASURES.items()}
    results |= about
    results |= {
        "folds": _groups_of_folds(table),
        "tested": table.tested,
        "utterances": int(kept.sum()),
        "without_label": table.without_label,
        "groups": len(np.unique(group)),
        "model": model,
    }
    folds = dict(zip(table.ids.tolist(), table.fold.tolist(), strict=True))
    return Classification(results, table.ids[kept], truth, predicted[kept], group, folds)


def _majority(table: Table) -> Names:
    """Return the commonest class of the training rows, for each row that is tested (N,)."""
    majority = np.empty_like(table.truth)
    for _, train, test in table.splits():
        classes, counts = np.unique(table.truth[train], return_counts=True)
        majority[test] = classes[counts.argmax()]
    return majority


def _groups_of_folds(table: Table) -> dict[str, list[str]]:
    groups: dict[str, set[str]] = {}
    for fold, group in zip(table.fold.tolist(), table.group.tolist(), strict=True):
        groups.setdefault(fold, set()).add(group)
    return {fold: sorted(groups[fold]) for fold in sorted(groups)}


def measured(
    key: str,
    measure: Measure,
    truth: Names,
    predicted: Names,
    group: Names,
    replicates: int,
    seed: int,
) -> dict[str, Any]:
    """Return a measure and its interval over groups."""
    confusion = confusions(truth, predicted, group)

    def statistic(weights: Weights | None) -> float:
        return measure(confusion(weights))

    return with_interval(key, statistic, group, replicates, seed)


def confusions(
    truth: Names, predicted: Names, group: Names
) -> Callable[[Weights | None], metrics.Floats]:
    """Return a function of the weights of groups: the confusion (C, C) of their utterances.

    A resample of groups is then a sum of their tables, however many utterances they have.

    Args:
        truth: (N,) classes.
        predicted: (N,) classes.
        group: (N,) groups. Of G groups, the weights are (G,) in the order of their names; None:
            each counts once.
    """
    from scipy.sparse import coo_array

    labels, codes = np.unique(np.concatenate([truth, predicted]), return_inverse=True)
    names, places = np.unique(group, return_inverse=True)
    count = len(labels)
    cells = codes[: len(truth)] * count + codes[len(truth) :]
    shape = (len(names), count**2)
    tables = coo_array((np.ones(len(truth)), (places, cells)), shape).tocsr()

    def confusion(weights: Weights | None) -> metrics.Floats:
        total = np.ones(len(names)) if weights is None else weights
        found: metrics.Floats = (total @ tables).reshape(count, count)
        return found

    return confusion


def with_interval(
    key: str,
    statistic: Callable[[Weights | None], float],
    group: Names,
    replicates: int,
    seed: int,
) -> dict[str, Any]:
    """Return ``<key>`` and ``<key>_interval`` (None without replicates) of a statistic.

    Args:
        key: in the results.
        statistic: function of the weights of groups, as `confusions` returns.
        group: (N,) groups of the utterances.
        replicates: bootstrap resamples of groups.
        seed: of the bootstrap.
    """
    interval = None
    if replicates:
        names = np.unique(group)
        interval = metrics.bootstrap_interval(statistic, names, replicates=replicates, seed=seed)
    return {
        key: statistic(None),
        f"{key}_interval": None if interval is None else list(interval),
    }


def _over_folds(
    key: str, measure: Measure, truth: Names, predicted: Names, fold: Names
) -> dict[str, Any]:
    """Return a measure in each fold, and the interval of the mean over folds."""
    values = []
    for name in np.unique(fold):
        here = fold == name
        values.append(measure(metrics.contingency(truth[here], predicted[here])[1]))
    return {f"{key}_folds": values, f"{key}_folds_interval": _mean_interval(values)}


def _mean_interval(values: Sequence[float]) -> list[float] | None:
    """Return the 95 % interval of the mean of a few values (Student's t); None for one value."""
    if len(values) < 2:
        return None
    from scipy.stats import t

    mean = float(np.mean(values))
    deviation = float(np.std(values, ddof=1))
    half = float(t.ppf(0.975, len(values) - 1)) * deviation / len(values) ** 0.5
    return [mean - half, mean + half]


def _per_class(truth: Names, predicted: Names) -> dict[str, Any]:
    """Return the F1 of each class, and the confusion (rows true, columns predicted)."""
    names, counts = metrics.contingency(truth, predicted)
    support = counts.sum(0) + counts.sum(1)
    f1 = 2 * counts.diagonal() / support
    return {
        "class_f1": dict(zip(names.tolist(), f1.tolist(), strict=True)),
        "labels": names.tolist(),
        "confusion": counts.astype(int).tolist(),
    }


def read_predictions(folder: str | Path) -> dict[str, str]:
    """Return utterance -> predicted class, from the folder that ``write_results`` wrote."""
    from speechssl.data.kaldi import read_mapping

    lines = read_mapping(Path(folder) / "predictions")
    return {name: classes.split()[-1] for name, classes in lines.items()}


def write_results(out: str | Path, run: Classification) -> Path:
    """Write ``results.json``, ``predictions`` (lines `utterance true predicted`) and ``utt2fold``.

    Args:
        out: the folder, made if need be.
        run: what ``evaluate`` returned.

    Returns:
        The path of ``results.json``.
    """
    folder = Path(out)
    path = folder / "results.json"
    rows = zip(run.ids.tolist(), run.truth.tolist(), run.predicted.tolist(), strict=True)
    predictions = "".join(f"{name} {true} {predicted}\n" for name, true, predicted in rows)
    folds = "".join(f"{name} {fold}\n" for name, fold in sorted(run.folds.items()))
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        files.write_text(folder / "predictions", predictions)
        files.write_text(folder / "utt2fold", folds)
        files.write_text(path, json.dumps(run.results, indent=2) + "\n")
    return path
