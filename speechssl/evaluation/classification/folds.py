"""Labelled utterances and their folds: no group (speaker) is ever trained and tested on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from speechssl.errors import UserError

Names = NDArray[np.str_]


class Split(NamedTuple):
    """One tested fold.

    Attributes:
        name: of the fold.
        train: (N,) true for the rows to train on.
        test: (N,) true for the rows to test on.
    """

    name: str
    train: NDArray[np.bool_]
    test: NDArray[np.bool_]


class Table(NamedTuple):
    """The N labelled utterances.

    Attributes:
        rows: (N,) of the embeddings.
        ids: (N,).
        truth: (N,) class.
        group: (N,) group (speaker).
        fold: (N,) fold.
        tested: the folds to test on.
        without_label: how many utterances were left out because they have no label.
    """

    rows: NDArray[np.int64]
    ids: Names
    truth: Names
    group: Names
    fold: Names
    tested: list[str]
    without_label: int

    def splits(self) -> Iterator[Split]:
        """Yield each tested fold.

        If all folds are tested, each is trained on all others; if only some, on those that are not
        tested.
        """
        all_are_tested = set(self.tested) == set(self.fold.tolist())
        never_tested = ~np.isin(self.fold, self.tested)
        for name in self.tested:
            test = self.fold == name
            train = ~test if all_are_tested else never_tested
            yield Split(name, train, test)


def tabulate(
    ids: Names,
    labels: Mapping[str, str],
    groups: Mapping[str, str],
    *,
    folds: int | Mapping[str, str] = 5,
    test_folds: Sequence[str] = (),
    seed: int = 0,
) -> Table:
    """Return the utterances that have a label, and their folds; arguments as for `evaluate`.

    Raises:
        UserError: no label, one class, an utterance without a group or fold, a group in two folds,
            a number of folds that cannot be, unknown test folds, or a fold beside which one class is
            left.
    """
    ids = np.asarray(ids, str)
    has_label = np.array([name in labels for name in ids.tolist()])
    if not has_label.any():
        raise UserError(
            "classification: no embedding has a label; are the ids those of the label file?"
        )
    rows = np.flatnonzero(has_label)
    ids = ids[rows]
    truth = np.array([labels[name] for name in ids.tolist()])
    group = _look_up_groups(ids, groups)
    if len(np.unique(truth)) < 2:
        raise UserError(
            f"classification: all labels are {str(truth[0])!r}; at least two classes are needed"
        )
    if isinstance(folds, int):
        fold = _draw_folds(truth, group, folds, seed)
    else:
        fold = _look_up_folds(ids, group, folds)
    tested = _tested_folds(fold, test_folds)
    table = Table(rows, ids, truth, group, fold, tested, int((~has_label).sum()))
    _check_training_classes(table)
    return table


def _check_training_classes(table: Table) -> None:
    """Raise UserError if what is left to train on, beside a tested fold, is of one class."""
    for name, train, _ in table.splits():
        classes = np.unique(table.truth[train])
        if len(classes) < 2:
            left = f"all labels are {str(classes[0])!r}" if len(classes) else "nothing is left"
            raise UserError(
                f"classification: outside fold {name!r} {left}, so that nothing can be learnt; take"
                " other folds, or leave out the class that one group alone has"
            )


def _look_up_groups(ids: Names, groups: Mapping[str, str]) -> Names:
    missing = [name for name in ids.tolist() if name not in groups]
    if missing:
        raise UserError(
            f"classification: {len(missing)} utterances have no group, first {missing[0]!r}; every"
            " utterance needs one, so that no speaker is trained and tested on"
        )
    return np.array([groups[name] for name in ids.tolist()])


def _look_up_folds(ids: Names, group: Names, folds: Mapping[str, str]) -> Names:
    """Return the given fold of each utterance; refuse a group in two folds."""
    missing = [name for name in ids.tolist() if name not in folds]
    if missing:
        raise UserError(
            f"classification: {len(missing)} utterances have no fold, first {missing[0]!r}"
        )
    fold = np.array([folds[name] for name in ids.tolist()])
    fold_of: dict[str, str] = {}
    for name, its_fold in zip(group.tolist(), fold.tolist(), strict=True):
        if fold_of.setdefault(name, its_fold) != its_fold:
            both = ", ".join(sorted((fold_of[name], its_fold)))
            raise UserError(
                f"classification: group {name} is in folds {both}: it would be trained and tested"
                " on; give each group one fold"
            )
    if len(np.unique(fold)) < 2:
        raise UserError("classification: all utterances are in one fold; at least two are needed")
    return fold


def _draw_folds(truth: Names, group: Names, count: int, seed: int) -> Names:
    """Return folds of whole groups, of similar classes; 0: each group is a fold."""
    groups = len(np.unique(group))
    count = count or groups
    if count < 2 or count > groups:
        raise UserError(
            f"classification: {count} folds of {groups} groups; give 2 to {groups}, or 0 for one"
            " each"
        )
    if count == groups:
        return group
    from sklearn.model_selection import StratifiedGroupKFold

    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    fold = np.empty(len(truth), dtype="U8")
    rows = np.zeros(len(truth))  # the splitter does not look at them
    for number, (_, test) in enumerate(splitter.split(rows, truth, group), 1):
        fold[test] = f"fold{number}"
    return fold


def _tested_folds(fold: Names, wanted: Sequence[str]) -> list[str]:
    """Return the folds to test on: those that are wanted, or all."""
    names = [str(name) for name in np.unique(fold)]
    if not wanted:
        return names
    unknown = [name for name in wanted if name not in names]
    problem = ""
    if unknown:
        problem = f"no fold {unknown[0]!r}"
    elif len(set(wanted)) == len(names):
        problem = "all folds are tested, none is left to train on"
    if problem:
        raise UserError(f"classification: {problem}; the folds are {', '.join(names)}")
    return sorted(set(wanted))
