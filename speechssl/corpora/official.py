"""Official lists of a corpus: their lines, their trials, and what of them has audio."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from speechssl.audio.tables import MAX_ID
from speechssl.corpora.partial import NOT_COMPARABLE, refuse_unless_partial
from speechssl.data.trials import Trials, write_enrolment, write_trials
from speechssl.errors import UserError
from speechssl.files import write_text
from speechssl.regular import read_text
from speechssl.text import tsv_cell

Left = list[tuple[str, str]]
"""(where, reason) of what was left out, for OUT/skipped.tsv."""


def read_lines(
    path: Path, left_out: Left, *, shape: str, fields: tuple[int, ...] | range
) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the fields of each line that is not blank.

    Args:
        path: the list.
        left_out: gets an entry for a line with another number of fields, or with one that is
            longer than an id may be.
        shape: the line in words, for the reason.
        fields: how many fields a line may have.

    Raises:
        UserError: the list is missing or cannot be read.
    """
    remedy = "give the corpus with the lists that it is distributed with"
    text = read_text(path, remedy).removeprefix("\ufeff")
    for number, line in enumerate(_lines(text), start=1):
        row = line.split()
        if not row:
            continue
        if len(row) not in fields or max(map(len, row)) > MAX_ID:
            refuse_line(path, number, row, shape, left_out)
        else:
            yield number, row


def _lines(text: str) -> Iterator[str]:
    """Yield the lines of a text one by one: a list of millions of them is not held twice."""
    start = 0
    while start < len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        yield text[start:end]
        start = end + 1


def refuse_line(path: Path, number: int, row: list[str], shape: str, left_out: Left) -> None:
    """Note that a line of a list is not used."""
    shown = " ".join(row)[:80]
    left_out.append((f"{path.name}:{number}", f"wrong line: {shown!r} is not {shape}"))


def read_answers(
    path: Path,
    left_out: Left,
    words: Mapping[str, bool],
    *,
    fields: tuple[int, ...] | range,
    test_id: Callable[[str], str] = str,
) -> Trials:
    """Read a list whose lines begin with `model test answer`.

    Args:
        path: the list.
        left_out: gets an entry for each line that is no trial.
        words: answer -> whether the speaker is the same.
        fields: how many fields a line may have.
        test_id: makes an id of the name of a test.

    Raises:
        UserError: the list cannot be read, or no line of it is a trial.
    """
    shape = f"`model test {'|'.join(words)}`"
    enrol = []
    test = []
    target = []
    # A list of millions of lines names each model and file many times: one string each.
    models: dict[str, str] = {}
    tests: dict[str, str] = {}
    for number, row in read_lines(path, left_out, shape=shape, fields=fields):
        if row[2] not in words:
            refuse_line(path, number, row, shape, left_out)
            continue
        enrol.append(models.setdefault(row[0], row[0]))
        if row[1] not in tests:
            tests[row[1]] = test_id(row[1])
        test.append(tests[row[1]])
        target.append(words[row[2]])
    if not target:
        raise UserError(f"{path}: no line is a trial, {shape}; take the corpus' own list")
    return Trials(np.array(enrol), np.array(test), np.array(target))


def compare_trials(path: Path, trials: Trials, published: tuple[int, int], partial: bool) -> None:
    """Print how many trials a list has, and how many the published one.

    Args:
        path: the list.
        trials: what it holds.
        published: trials, and targets among them.
        partial: accept another number.

    Raises:
        UserError: the numbers differ, unless `partial`.
    """
    found = (len(trials), int(trials.target.sum()))
    line = f"{path}: {found[0]:,} trials, {found[1]:,} of them targets"
    if found == published:
        print(f"{line}, as published", file=sys.stderr)
        return
    refuse_unless_partial(
        f"{line}, where {published[0]:,} and {published[1]:,} are published",
        remedy="download it again, or take it as it is",
        partial=partial,
        consequence=NOT_COMPARABLE,
    )


class AudioCheck:
    """Leaves out of official lists what has no audio, and reports it.

    Args:
        ids: utterances with audio.
    """

    def __init__(self, ids: Collection[str]) -> None:
        self._ids = set(ids)
        self._missing: dict[str, list[str]] = {}  # utterance -> lists that name it
        self._left_out: list[str] = []
        self._without_audio: set[str] = set()  # models

    def models(self, name: str, models: Mapping[str, list[str]]) -> dict[str, list[str]]:
        """Return models with those of their utterances that have audio, if any.

        A model without any is left out.

        Args:
            name: of the list, for the report.
            models: model -> its utterances.
        """
        kept = {}
        for model, utterances in models.items():
            usable = [utterance for utterance in utterances if utterance in self._ids]
            if usable:
                kept[model] = usable
            else:
                self._without_audio.add(model)
            for utterance in utterances:
                if utterance not in self._ids:
                    self._note(utterance, name)
        return kept

    def trials(
        self, name: str, trials: Trials, models: Mapping[str, list[str]] | None = None
    ) -> Trials:
        """Return the trials whose both sides have audio.

        Args:
            name: of the list, for the report.
            trials: what it holds.
            models: what the first side of a trial names; None: an utterance.
        """
        enrolled = self._ids if models is None else models.keys()
        has_enrol = _among(trials.enrol, enrolled)
        has_test = _among(trials.test, self._ids)
        absent = {*trials.enrol[~has_enrol].tolist(), *trials.test[~has_test].tolist()}
        for utterance in absent - self._without_audio:
            self._note(utterance, name)
        good = has_enrol & has_test
        if good.all():
            return trials
        self._left_out.append(f"{int((~good).sum()):,} of {len(trials):,} of {name}")
        return Trials(trials.enrol[good], trials.test[good], trials.target[good])

    def _note(self, utterance: str, name: str) -> None:
        lists = self._missing.setdefault(utterance, [])
        if name not in lists:
            lists.append(name)

    def report(self, out: Path, partial: bool, remedy: str) -> None:
        """List in OUT/missing.tsv what has no audio; an earlier list is removed.

        Args:
            out: the Kaldi directory.
            partial: print what is left out on standard error, and go on.
            remedy: what to do about it.

        Raises:
            UserError: something has no audio, unless `partial`.
        """
        path = out / "missing.tsv"
        path.unlink(missing_ok=True)
        if not self._missing:
            return
        lines = ["utterance\tlists\n"]
        for utterance in sorted(self._missing):
            lines.append(f"{tsv_cell(utterance)}\t{' '.join(self._missing[utterance])}\n")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, "".join(lines))
        refuse_unless_partial(
            f"{len(self._missing):,} utterances of trials have no audio (listed in {path}):"
            f" trials {', '.join(self._left_out) or 'none'}",
            remedy=f"{remedy}, or leave them out",
            partial=partial,
            consequence=f" are left out{NOT_COMPARABLE}",
        )


def _among(names: NDArray[np.str_], known: Collection[str]) -> NDArray[np.bool_]:
    """Return which of the names (T,) are known."""
    return np.fromiter((name in known for name in names.tolist()), bool, len(names))


def write_lists(
    out: Path,
    trials: Mapping[str, Trials],
    enrolment: Mapping[str, Mapping[str, Sequence[str]]],
) -> None:
    """Write trials (`model test target|nontarget`) and enrolment; a list without a line is none.

    Args:
        out: the Kaldi directory.
        trials: name of the file -> what it holds.
        enrolment: name of the file -> model -> its utterances.
    """
    for name, found in trials.items():
        if len(found):
            write_trials(found, out / name)
    for name, models in enrolment.items():
        if models:
            write_enrolment(models, out / name)
