"""Classification of utterances from frozen embeddings: emotion, language, or any other
    ``utt2<label>``.

One protocol for every corpus (recipes/README.md 6): folds that no group (speaker) is shared between, fixed
and written out; standardisation and the classifier's one setting chosen on the training folds only,
by folds of groups within them; micro-F1 (the accuracy), macro-F1, UAR, F1 of each class and the
confusion of all test folds together, with intervals over groups and over folds, beside the majority
class of the training folds and, if given, other embeddings of the same utterances on the same folds
(`beside`).

Classes are weighted by the inverse of their frequency (UAR and macro-F1 count them alike) unless
one says not to; k-NN, LDA and MLP cannot do so, and the results say what was done (`balanced`).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from speechssl import metrics
from speechssl.errors import UserError, writing
from speechssl.evaluation.classification.classifiers import choose, fitted, kinds
from speechssl.evaluation.classification.folds import Names, Table, tabulate

Rows = NDArray[np.float32]


class Classification(NamedTuple):
    """What a run measured: ``results`` (see ``evaluate``), and the tested utterances (N,), their
    labels, predictions and groups that it is made of; ``folds``: utterance -> fold, of all that
    have a label.
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
        ids, embeddings: (N,) and (N, D). Utterances without a label are left out, and counted.
        labels, groups: utterance -> class, and -> the group that no two folds may share (speaker).
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
        UserError: fewer than two classes or groups, a group in two folds, or an unknown classifier.
    """
    table = tabulate(ids, labels, groups, folds=folds, test_folds=test_folds, seed=seed)
    available = kinds(balanced, seed)
    if classifier not in available:
        raise UserError(
            f"classification: no classifier {classifier!r}; known: {', '.join(available)}"
        )
    from threadpoolctl import threadpool_limits

    kind, chosen = available[classifier], {}
    x, truth, group = np.asarray(embeddings, np.float64)[table.rows], table.truth, table.group
    predicted = np.empty_like(truth)
    for name, train, test in table.splits():
        with threadpool_limits(
            1
        ):  # matrices this small only suffer from more, badly so on a busy machine
            setting = choose(kind, x[train], truth[train], group[train])
            predicted[test] = fitted(kind, setting, x[train], truth[train]).predict(x[test])
        chosen[name] = setting
    return summarise(
        table,
        predicted,
        {
            "classifier": classifier,
            "balanced": kind.balanced,
            "chosen": chosen,
            "labels_used": ["probe"],
        },
        replicates=replicates,
        seed=seed,
        model=model,
    )


def summarise(
    table: Table,
    predicted: Names,
    about: Mapping[str, Any],
    *,
    replicates: int = 1000,
    seed: int = 0,
    model: str | None = None,
) -> Classification:
    """The figures of predictions (N,), one for each row of ``table``; ``about`` goes into the
    results.
    """
    majority = np.empty_like(table.truth)
    for _name, train, test in table.splits():
        values, counts = np.unique(table.truth[train], return_counts=True)
        majority[test] = values[counts.argmax()]
    kept = np.isin(table.fold, table.tested)
    truth, group, fold = table.truth[kept], table.group[kept], table.fold[kept]
    results: dict[str, Any] = _figures(truth, predicted[kept], group, fold, replicates, seed)
    results |= {
        "majority": {key: measure(truth, majority[kept]) for key, measure in MEASURES.items()},
        **about,
        "folds": {
            str(n): sorted(set(table.group[table.fold == n].tolist()))
            for n in np.unique(table.fold)
        },
        "tested": table.tested,
        "utterances": int(kept.sum()),
        "without_label": table.without_label,
        "groups": len(np.unique(group)),
        "model": model,
    }
    folds = dict(zip(table.ids.tolist(), table.fold.tolist(), strict=True))
    return Classification(results, table.ids[kept], truth, predicted[kept], group, folds)


MEASURES = {"micro_f1": metrics.micro_f1, "macro_f1": metrics.macro_f1, "uar": metrics.uar}


def _figures(
    truth: Names, predicted: Names, group: Names, fold: Names, replicates: int, seed: int
) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, measure in MEASURES.items():
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
        values = [measure(truth[fold == n], predicted[fold == n]) for n in np.unique(fold)]
        out[f"{key}_folds"], out[f"{key}_folds_interval"] = values, _mean_interval(values)
    names, counts = metrics.contingency(truth, predicted)
    support = counts.sum(0) + counts.sum(1)
    f1 = 2 * counts.diagonal() / support
    out["class_f1"] = dict(zip(names.tolist(), f1.tolist(), strict=True))
    return out | {"labels": names.tolist(), "confusion": counts.astype(int).tolist()}


def _mean_interval(values: list[float]) -> list[float] | None:
    """95 % interval of the mean of a few values (Student's t); None for one value."""
    if len(values) < 2:
        return None
    from scipy.stats import t

    half = float(t.ppf(0.975, len(values) - 1)) * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return [float(np.mean(values)) - half, float(np.mean(values)) + half]


def beside(run: Classification, ids: Names, embeddings: Rows, **options: Any) -> dict[str, Any]:
    """Probe other embeddings of the utterances of ``run`` on its folds, and compare.

    Args:
        run: what ``evaluate`` returned.
        ids, embeddings: (N,) and (N, D); all utterances of the run, in any order.
        options: of ``evaluate``; labels, groups, test_folds and the rest as for the run.

    Returns:
        As ``compare``.
    """
    ids = np.asarray(ids, str)
    _all_there(run.folds, set(ids.tolist()))
    kept = np.array([name in run.folds for name in ids.tolist()])
    other = evaluate(ids[kept], embeddings[kept], folds=run.folds, **options)
    said = dict(zip(other.ids.tolist(), other.predicted.tolist(), strict=True))
    return compare(
        run, said, replicates=options.get("replicates", 1000), seed=options.get("seed", 0)
    )


def compare(
    run: Classification, predicted: Mapping[str, str], *, replicates: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Compare with what another classifier ``predicted`` (utterance -> class) for the utterances of
    ``run``.

    Returns:
        micro_f1, macro_f1 and uar of the other, and ``<figure>_gain``: how much higher the run's
        is, each with its ``_interval`` over groups (the same resamples for both: what is hard for
        both cancels).
    """
    _all_there(run.ids.tolist(), predicted)
    theirs = np.array([predicted[name] for name in run.ids.tolist()])
    row: dict[str, Any] = {}

    def put(key: str, statistic: Callable[[NDArray[np.int64] | None], float]) -> None:
        row[key], row[f"{key}_interval"] = statistic(None), None
        if replicates:
            interval = metrics.bootstrap_interval(
                statistic, run.group, replicates=replicates, seed=seed
            )
            row[f"{key}_interval"] = None if interval is None else list(interval)

    for key, measure in MEASURES.items():
        put(key, lambda w, m=measure: m(run.truth, theirs, w))  # type: ignore[misc]
        put(
            f"{key}_gain",
            lambda w, m=measure: m(run.truth, run.predicted, w) - m(run.truth, theirs, w),  # type: ignore[misc]
        )
    return row


def _all_there(wanted: Iterable[str], there: Container[str]) -> None:
    lacking = [name for name in wanted if name not in there]
    if lacking:
        raise UserError(
            f"classification: what is beside lacks {len(lacking)} utterances of the run, as"
            f" {lacking[0]}"
        )


def read_predictions(folder: str | Path) -> dict[str, str]:
    """Utterance -> predicted class, from the folder that ``write_results`` wrote."""
    from speechssl.data.kaldi import read_mapping

    return {
        name: rest.split()[-1] for name, rest in read_mapping(Path(folder) / "predictions").items()
    }


def write_results(out: str | Path, run: Classification) -> Path:
    """``results.json``, ``predictions`` (`utterance true predicted` lines) and ``utt2fold`` in a
    folder.
    """
    import json

    folder = Path(out)
    path = folder / "results.json"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        rows = zip(run.ids.tolist(), run.truth.tolist(), run.predicted.tolist(), strict=True)
        text = "".join(f"{name} {true} {said}\n" for name, true, said in rows)
        (folder / "predictions").write_text(text, encoding="utf-8")
        text = "".join(f"{name} {fold}\n" for name, fold in sorted(run.folds.items()))
        (folder / "utt2fold").write_text(text, encoding="utf-8")
        path.write_text(json.dumps(run.results, indent=2) + "\n", encoding="utf-8")
    return path
