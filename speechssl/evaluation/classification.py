"""Classification of utterances from frozen embeddings: emotion, language, or any other ``utt2<label>``.

One protocol for every corpus (RECIPES.md 6): folds that no group (speaker) is shared between, fixed and
written out; standardisation and the classifier's one setting chosen on the training folds only, by folds of
groups within them; micro-F1 (the accuracy), macro-F1, UAR, F1 of each class and the confusion of all test
folds together, with intervals over groups and the spread over folds, beside the majority class of the
training folds.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from speechssl import metrics
from speechssl.errors import UserError
from speechssl.evaluation._classifiers import Kind, kinds

Rows = NDArray[np.float32]
Names = NDArray[np.str_]


class Classification(NamedTuple):
    """What a run measured: ``results`` (see ``evaluate``), and the utterances (N,), their labels and
    predictions that it is made of."""

    results: dict[str, Any]
    ids: Names
    truth: Names
    predicted: Names


def evaluate(
    ids: Names,
    embeddings: Rows,
    labels: Mapping[str, str],
    groups: Mapping[str, str],
    *,
    folds: int | Mapping[str, str] = 5,
    classifier: str = "logistic",
    balanced: bool = True,
    replicates: int = 1000,
    seed: int = 0,
    model: str | None = None,
) -> Classification:
    """Probe embeddings with a classifier.

    Args:
        ids, embeddings: (N,) and (N, D). Utterances without a label are left out, and counted.
        labels, groups: utterance -> class, and -> the group that no two folds may share (speaker).
        folds: how many, 0 = each group a fold of its own; or utterance -> name of its fold (official ones).
        classifier: ``logistic``, ``svm`` (linear), ``knn``, ``lda`` or ``mlp``.
        balanced: whether classes weigh alike in training (logistic, svm).
        replicates: bootstrap resamples of groups for the intervals, 0 for none.
        seed: of folds, classifier and bootstrap.
        model: written into the results.

    Returns:
        micro_f1, macro_f1, uar (0 to 1), each with ``_interval`` (95 %, over groups, or null) and ``_folds``
        (one value each); class_f1; labels; confusion (rows true, columns predicted); majority (the same three
        figures); folds (name -> groups); chosen (the setting of each fold); counts.

    Raises:
        UserError: fewer than two classes or groups, a group in two folds, or an unknown classifier.
    """
    ids = np.asarray(ids, str)
    known = np.array([name in labels for name in ids.tolist()])
    missing = int((~known).sum())
    if not known.any():
        raise UserError("classification: no embedding has a label; are the ids those of the label file?")
    ids, x = ids[known], np.asarray(embeddings, np.float64)[known]
    truth = np.array([labels[name] for name in ids.tolist()])
    group = _groups(ids, groups)
    if len(np.unique(truth)) < 2:
        raise UserError(f"classification: one class only ({truth[0]}); two are needed")
    fold = _folds(ids, truth, group, folds, seed)
    from threadpoolctl import threadpool_limits

    available = kinds(balanced, seed)
    if classifier not in available:
        raise UserError(f"classification: no classifier {classifier!r}; known: {', '.join(available)}")
    predicted, majority, chosen = np.empty_like(truth), np.empty_like(truth), {}
    kind = available[classifier]
    for name in np.unique(fold):
        test = fold == name
        with threadpool_limits(1):  # matrices this small only suffer from more, badly so on a busy machine
            setting = _choose(kind, x[~test], truth[~test], group[~test])
            predicted[test] = _fitted(kind, setting, x[~test], truth[~test]).predict(x[test])
        chosen[str(name)] = setting
        values, counts = np.unique(truth[~test], return_counts=True)
        majority[test] = values[counts.argmax()]
    results: dict[str, Any] = _figures(truth, predicted, group, fold, replicates, seed)
    results |= {
        "majority": {key: measure(truth, majority) for key, measure in _MEASURES.items()},
        "classifier": classifier,
        "balanced": balanced,
        "chosen": chosen,
        "folds": {str(n): sorted(set(group[fold == n].tolist())) for n in np.unique(fold)},
        "utterances": len(ids),
        "without_label": missing,
        "groups": len(np.unique(group)),
        "model": model,
        "labels_used": ["probe"],
    }
    return Classification(results, ids, truth, predicted)


_MEASURES = {"micro_f1": metrics.micro_f1, "macro_f1": metrics.macro_f1, "uar": metrics.uar}


def _figures(
    truth: Names, predicted: Names, group: Names, fold: Names, replicates: int, seed: int
) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, measure in _MEASURES.items():
        interval = None
        if replicates:
            interval = metrics.bootstrap_interval(
                lambda w, m=measure: m(truth, predicted, w),  # type: ignore[misc]
                group,
                replicates=replicates,
                seed=seed,
            )
        out[key] = measure(truth, predicted)
        out[f"{key}_interval"] = None if interval is None else list(interval)
        out[f"{key}_folds"] = [measure(truth[fold == n], predicted[fold == n]) for n in np.unique(fold)]
    names, counts = metrics.contingency(truth, predicted)
    support = counts.sum(0) + counts.sum(1)
    f1 = 2 * counts.diagonal() / support
    out["class_f1"] = dict(zip(names.tolist(), f1.tolist(), strict=True))
    return out | {"labels": names.tolist(), "confusion": counts.astype(int).tolist()}


def _groups(ids: Names, groups: Mapping[str, str]) -> Names:
    without = [name for name in ids.tolist() if name not in groups]
    if without:
        raise UserError(
            f"classification: {len(without)} utterances have no group, first {without[0]!r}; the groups keep"
            " speakers apart, so all need one"
        )
    return np.array([groups[name] for name in ids.tolist()])


def _folds(ids: Names, truth: Names, group: Names, folds: int | Mapping[str, str], seed: int) -> Names:
    """The fold of each utterance; no group is in two."""
    if not isinstance(folds, int):
        lacking = [name for name in ids.tolist() if name not in folds]
        if lacking:
            raise UserError(f"classification: {len(lacking)} utterances have no fold, first {lacking[0]!r}")
        out = np.array([folds[name] for name in ids.tolist()])
        for name in np.unique(group):
            if len(found := np.unique(out[group == name])) > 1:
                raise UserError(
                    f"classification: group {name} is in folds {', '.join(found)}: it would be trained and"
                    " tested on; give each group one fold"
                )
        if len(np.unique(out)) < 2:
            raise UserError("classification: one fold only; two are needed")
        return out
    names = np.unique(group)
    count = folds or len(names)
    if count < 2 or count > len(names):
        raise UserError(
            f"classification: {count} folds of {len(names)} groups; give 2 to {len(names)}, or 0 for one each"
        )
    if count == len(names):
        return group
    from sklearn.model_selection import StratifiedGroupKFold

    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    out = np.empty(len(ids), dtype="U8")
    for number, (_, test) in enumerate(splitter.split(ids, truth, group)):
        out[test] = f"fold{number + 1}"
    return out


def _fitted(kind: Kind, setting: Any, x: NDArray[np.float64], truth: Names) -> Any:
    """Standardisation and classifier, fitted together."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), kind.make(setting)).fit(x, truth)


def _choose(kind: Kind, x: NDArray[np.float64], truth: Names, group: Names) -> Any:
    """The setting with the best UAR over folds of groups within the training data; the simplest of equals."""
    from sklearn.model_selection import GroupKFold

    count = min(4, len(np.unique(group)))
    if count < 2:
        return kind.grid[len(kind.grid) // 2]
    splits = list(GroupKFold(count).split(x, truth, group))
    best, chosen = -1.0, kind.grid[0]
    for setting in kind.grid:
        scores = [
            metrics.uar(truth[test], _fitted(kind, setting, x[train], truth[train]).predict(x[test]))
            for train, test in splits
            if len(np.unique(truth[train])) > 1
        ]
        if scores and float(np.mean(scores)) > best + 1e-9:
            best, chosen = float(np.mean(scores)), setting
    return chosen


def write_results(out: str | Path, run: Classification) -> Path:
    """``results.json`` and ``predictions`` (`utterance true predicted` lines) in a folder."""
    import json

    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        rows = zip(run.ids.tolist(), run.truth.tolist(), run.predicted.tolist(), strict=True)
        text = "".join(f"{name} {true} {said}\n" for name, true, said in rows)
        (folder / "predictions").write_text(text, encoding="utf-8")
        path = folder / "results.json"
        path.write_text(json.dumps(run.results, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); choose another --out") from None
    return path
