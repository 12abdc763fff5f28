"""Labelled utterances and their folds: no group (speaker) is ever trained and tested on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from speechssl.errors import UserError

Names = NDArray[np.str_]


class Table(NamedTuple):
    """The labelled utterances: ``rows`` (N,) of the embeddings; id, class, group and fold of each
    (N,).
    """

    rows: NDArray[np.int64]
    ids: Names
    truth: Names
    group: Names
    fold: Names
    tested: list[str]
    without_label: int

    def splits(self) -> Iterator[tuple[str, NDArray[np.bool_], NDArray[np.bool_]]]:
        """Name, training rows (N,) and test rows (N,) of each tested fold."""
        everything = set(self.tested) == set(self.fold.tolist())
        held_out = np.isin(self.fold, self.tested)
        for name in self.tested:
            test = self.fold == name
            yield name, ~test if everything else ~held_out, test


def tabulate(
    ids: Names,
    labels: Mapping[str, str],
    groups: Mapping[str, str],
    *,
    folds: int | Mapping[str, str] = 5,
    test_folds: Sequence[str] = (),
    seed: int = 0,
) -> Table:
    """The utterances that have a label, and their folds; see ``evaluate``."""
    ids = np.asarray(ids, str)
    known = np.array([name in labels for name in ids.tolist()])
    if not known.any():
        raise UserError(
            "classification: no embedding has a label; are the ids those of the label file?"
        )
    rows = np.flatnonzero(known)
    ids = ids[rows]
    truth = np.array([labels[name] for name in ids.tolist()])
    group = _groups(ids, groups)
    if len(np.unique(truth)) < 2:
        raise UserError(f"classification: one class only ({truth[0]}); two are needed")
    fold = _folds(ids, truth, group, folds, seed)
    names = [str(name) for name in np.unique(fold)]
    wrong = [name for name in test_folds if name not in names]
    if wrong or (test_folds and len(set(test_folds)) == len(names)):
        what = (
            f"no fold {wrong[0]!r}" if wrong else "all folds are tested, none is left to train on"
        )
        raise UserError(f"classification: {what}; the folds are {', '.join(names)}")
    tested = sorted(set(test_folds)) or names
    return Table(rows, ids, truth, group, fold, tested, int((~known).sum()))


def _groups(ids: Names, groups: Mapping[str, str]) -> Names:
    without = [name for name in ids.tolist() if name not in groups]
    if without:
        raise UserError(
            f"classification: {len(without)} utterances have no group, first {without[0]!r}; the"
            " groups keep speakers apart, so all need one"
        )
    return np.array([groups[name] for name in ids.tolist()])


def _folds(
    ids: Names, truth: Names, group: Names, folds: int | Mapping[str, str], seed: int
) -> Names:
    """The fold of each utterance; no group is in two."""
    if not isinstance(folds, int):
        lacking = [name for name in ids.tolist() if name not in folds]
        if lacking:
            raise UserError(
                f"classification: {len(lacking)} utterances have no fold, first {lacking[0]!r}"
            )
        out = np.array([folds[name] for name in ids.tolist()])
        for name in np.unique(group):
            if len(found := np.unique(out[group == name])) > 1:
                raise UserError(
                    f"classification: group {name} is in folds {', '.join(found)}: it would be"
                    " trained and tested on; give each group one fold"
                )
        if len(np.unique(out)) < 2:
            raise UserError("classification: one fold only; two are needed")
        return out
    names = np.unique(group)
    count = folds or len(names)
    if count < 2 or count > len(names):
        raise UserError(
            f"classification: {count} folds of {len(names)} groups; give 2 to {len(names)}, or 0"
            " for one each"
        )
    if count == len(names):
        return group
    from sklearn.model_selection import StratifiedGroupKFold

    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    out = np.empty(len(ids), dtype="U8")
    for number, (_, test) in enumerate(splitter.split(ids, truth, group)):
        out[test] = f"fold{number + 1}"
    return out
