"""From utterances to subjects: the class that most utterances of a subject are given.

A diagnosis belongs to a person and not to a recording. Measures then count subjects, and
their intervals are over subjects.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from speechssl import files, metrics
from speechssl.errors import UserError, writing
from speechssl.evaluation.classification.classify import MEASURES, Classification, measured
from speechssl.evaluation.classification.folds import Names


class Votes(NamedTuple):
    """What a run says of each subject.

    Attributes:
        subject: (S,) names, sorted.
        truth: (S,) their class.
        predicted: (S,) the class with most votes; of equal ones the class that more of the
            run's utterances were given, then the first by name.
        share: (S,) share of the votes that it has, 0 to 1.
        tied: (S,) whether another class has as many.
    """

    subject: Names
    truth: Names
    predicted: Names
    share: np.ndarray
    tied: np.ndarray


def vote(run: Classification, subject_of: Mapping[str, str]) -> Votes:
    """Count the votes of each subject's utterances.

    Args:
        run: predictions of utterances.
        subject_of: utterance -> subject.

    Raises:
        UserError: an utterance without a subject, a subject of two classes, or a subject
            in two folds: it would be trained and tested on.
    """
    missing = [name for name in run.ids.tolist() if name not in subject_of]
    if missing:
        raise _without_subject(missing)
    subjects, index = np.unique(
        [subject_of[name] for name in run.ids.tolist()], return_inverse=True
    )
    _refuse_two_folds(run, subject_of)
    classes = np.unique(np.concatenate([run.truth, run.predicted]))
    counts = np.zeros((len(subjects), len(classes)), np.int64)
    np.add.at(counts, (index, np.searchsorted(classes, run.predicted)), 1)
    commonest_first = np.argsort(-counts.sum(0), kind="stable")
    best = commonest_first[counts[:, commonest_first].argmax(1)]
    most = counts.max(1)
    truth = np.empty(len(subjects), run.truth.dtype)
    truth[index] = run.truth
    for name, subject, true in zip(run.ids, index, run.truth, strict=True):
        if truth[subject] != true:
            raise _two_labels(subjects[subject], truth[subject], true, name)
    tied = (counts == most[:, None]).sum(1) > 1
    return Votes(subjects, truth, classes[best], most / counts.sum(1), tied)


def check(
    labels: Mapping[str, str],
    groups: Mapping[str, str],
    subject_of: Mapping[str, str],
    *,
    own_folds: bool = False,
) -> None:
    """Refuse subjects that cannot vote, before anything is trained.

    Args:
        labels: utterance -> label, of the utterances that are trained and tested on.
        groups: utterance -> group; folds are made of groups.
        subject_of: utterance -> subject.
        own_folds: the folds are given, not made of ``groups``.

    Raises:
        UserError: an utterance without a subject, a subject of two classes, or a subject in
            two groups, which may come into two folds.
    """
    missing = [name for name in labels if name not in subject_of]
    if missing:
        raise _without_subject(missing)
    label_of: dict[str, str] = {}
    group_of: dict[str, str] = {}
    for name, label in labels.items():
        subject = subject_of[name]
        if label_of.setdefault(subject, label) != label:
            raise _two_labels(subject, label_of[subject], label, name)
        group = groups.get(name)
        if group is None or own_folds:
            continue
        if group_of.setdefault(subject, group) != group:
            raise UserError(
                f"--subjects: {subject} is in groups {group_of[subject]} and {group} ({name}), so it"
                " may be trained and tested on; give the same file as --groups"
            )


def _without_subject(missing: list[str]) -> UserError:
    return UserError(
        f"--subjects: {len(missing)} utterances have no subject, first {missing[0]!r}; every"
        " utterance that is tested needs one"
    )


def _two_labels(subject: str, one: str, two: str, name: str) -> UserError:
    return UserError(
        f"--subjects: {subject} has utterances of {one} and of {two} ({name}); a vote is for labels"
        " that a subject has as a whole"
    )


def _refuse_two_folds(run: Classification, subject_of: Mapping[str, str]) -> None:
    """Raise UserError if utterances of one subject are in two folds."""
    fold_of: dict[str, str] = {}
    for name, fold in run.folds.items():
        subject = subject_of.get(name)
        if subject is not None and fold_of.setdefault(subject, fold) != fold:
            raise UserError(
                f"--subjects: {subject} is in folds {fold_of[subject]} and {fold}, so it is trained"
                " and tested on; give the same file as --groups"
            )


def measure(votes: Votes, *, replicates: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Compute the figures of subjects.

    Args:
        votes: what ``vote`` returned.
        replicates: bootstrap resamples of subjects for the intervals, 0 for none.
        seed: of the bootstrap.

    Returns:
        ``count`` (subjects), ``ties``, micro_f1, macro_f1 and uar, each with its
        ``_interval`` (95 %, over subjects, or null), labels, class_recall (of two classes:
        sensitivity and specificity) and confusion (rows true, columns predicted).
    """
    results: dict[str, Any] = {"count": len(votes.subject), "ties": int(votes.tied.sum())}
    for key, function in MEASURES.items():
        results |= measured(
            key, function, votes.truth, votes.predicted, votes.subject, replicates, seed
        )
    names, counts = metrics.contingency(votes.truth, votes.predicted)
    recall = {}
    for name, row, right in zip(names.tolist(), counts, counts.diagonal(), strict=True):
        if row.sum():
            recall[name] = float(right / row.sum())
    results["labels"] = names.tolist()
    results["class_recall"] = recall
    results["confusion"] = counts.astype(int).tolist()
    return results


def add_votes(
    run: Classification,
    subject_of: Mapping[str, str],
    *,
    replicates: int = 1000,
    seed: int = 0,
) -> Votes:
    """Put the figures of subjects into ``run.results["subjects"]``; return the votes.

    Args:
        run: predictions of utterances.
        subject_of: utterance -> subject.
        replicates, seed: of the bootstrap.

    Raises:
        UserError: as ``vote``.
    """
    votes = vote(run, subject_of)
    run.results["subjects"] = measure(votes, replicates=replicates, seed=seed)
    return votes


def write_votes(out: str | Path, votes: Votes) -> None:
    """Write OUT/subject_predictions: lines `subject true predicted share-of-votes`."""
    lines = []
    for subject, true, predicted, share, _ in zip(*votes, strict=True):
        lines.append(f"{subject} {true} {predicted} {share:.3f}\n")
    folder = Path(out)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        files.write_text(folder / "subject_predictions", "".join(lines))


def describe(results: Mapping[str, Any]) -> str:
    """Return the figures of subjects, a line each, from ``results["subjects"]``."""
    lines = [f"subjects      {results['count']}, {results['ties']} tied votes"]
    for key in MEASURES:
        interval = metrics.format_interval(results[f"{key}_interval"], ".3f")
        lines.append(f"{key:<14}{results[key]:.3f}  {interval}".rstrip())
    for name, value in results["class_recall"].items():
        lines.append(f"  recall {name}  {value:.3f}")
    return "\n".join(lines)
