"""What is wrong with a list of trials, line by line, for `speechssl validate`."""

from __future__ import annotations

from array import array
from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from speechssl.data.trials import (
    KALDI,
    VOXCELEB,
    TrialFormat,
    empty_list,
    line_fault,
    list_text,
    numbered_rows,
)
from speechssl.errors import UserError
from speechssl.text import first_of

MOST_SHOWN = 20
"""Bad lines of a list that are named; of more, their number: a list has up to millions of lines."""

LINES_FOR_FORMAT = 1000
"""At the beginning of a list: most of them decide which format it is in."""


def check_trial_lists(folder: Path, ids: Collection[str]) -> list[str]:
    """Return what is wrong with `trials`, and every `trials-NAME` and `pairs-NAME`, of a directory.

    Args:
        folder: the Kaldi directory.
        ids: the utterances and models that a list may name.
    """
    problems = []
    for pattern in ("trials", "trials-*", "pairs-*"):
        for path in sorted(folder.glob(pattern)):
            problems += check_trials(path, ids)
    return problems


def check_trials(path: Path, ids: Collection[str]) -> list[str]:
    """Return what is wrong with a list of trials, one line each.

    Lines that are no trials, a pair that is said to be of one speaker and of two, and names that
    nothing has. Of two utterances it does not matter which is named first.

    Args:
        path: the list, in any format that `speechssl score` reads.
        ids: the utterances and models that it may name.
    """
    try:
        text = list_text(path)
    except UserError as error:
        return [str(error)]
    if not text.strip():
        return [str(empty_list(path))]
    form = _format(text, may_lack_answers=path.name.startswith("pairs-"))
    pairs = _Pairs()
    faults = []
    for number, row in numbered_rows(text):
        fault = line_fault(f"{path}:{number}", row, form)
        if fault:
            faults.append(fault)
        elif form is None:
            pairs.add(number, row[0], row[1], is_target=False)
        else:
            pairs.add(number, row[form.enrol], row[form.test], form.words[row[form.key]])
    problems = _shortened(path, faults, "are no trials either")
    problems += _shortened(path, pairs.contradictions(path), "contradict earlier lines, too")
    unknown = set(pairs.numbers) - set(ids)
    if unknown:
        named = first_of(unknown)
        problems.append(f"{path}: names unknown utterance {named}; remove those trials")
    return problems


def _format(text: str, may_lack_answers: bool) -> TrialFormat | None:
    """Return the format of most of the first lines; None: `enrol test` without answers.

    Args:
        text: of the list.
        may_lack_answers: the list is one to be scored, whose first line decides whether there are answers.
    """
    rows = numbered_rows(text)
    _number, first = next(rows)
    if may_lack_answers and len(first) == 2:
        return None
    kaldi_lines = 0
    voxceleb_lines = 0
    for _number, row in islice(numbered_rows(text), LINES_FOR_FORMAT):
        kaldi_lines += KALDI.fits(row)
        voxceleb_lines += VOXCELEB.fits(row)
    return KALDI if kaldi_lines > voxceleb_lines else VOXCELEB


@dataclass
class _Pairs:
    """The trials of a list, as numbers, because there are up to millions of them.

    Attributes:
        numbers: id -> its number.
        lines: number of the line of each trial.
        first, second: numbers of the two ids, the smaller one first.
        target: 1 for one speaker, 0 for two.
    """

    numbers: dict[str, int] = field(default_factory=dict)
    lines: array[int] = field(default_factory=lambda: array("q"))
    first: array[int] = field(default_factory=lambda: array("q"))
    second: array[int] = field(default_factory=lambda: array("q"))
    target: array[int] = field(default_factory=lambda: array("b"))

    def add(self, line: int, enrol: str, test: str, is_target: bool) -> None:
        """Add a trial."""
        one = self.numbers.setdefault(enrol, len(self.numbers))
        other = self.numbers.setdefault(test, len(self.numbers))
        self.lines.append(line)
        self.first.append(min(one, other))
        self.second.append(max(one, other))
        self.target.append(is_target)

    def contradictions(self, path: Path) -> list[str]:
        """Return a message about each line whose answer is not that of the first line of its pair."""
        first = np.array(self.first)
        second = np.array(self.second)
        lines = np.array(self.lines)
        target = np.array(self.target, bool)
        pairs = first * len(self.numbers) + second
        _, earliest, pair_of = np.unique(pairs, return_index=True, return_inverse=True)
        source = earliest[pair_of]
        names = list(self.numbers)
        return [
            f"{path}:{lines[row]}: {names[first[row]]!r} and {names[second[row]]!r} are"
            f" {_answer(target[row])}, in line {lines[source[row]]} {_answer(target[source[row]])};"
            " remove one of the two"
            for row in np.flatnonzero(target != target[source])
        ]


def _answer(is_target: bool) -> str:
    return "one speaker" if is_target else "two speakers"


def _shortened(path: Path, messages: list[str], what_others_are: str) -> list[str]:
    """Return the first messages, and one that counts the others."""
    if len(messages) <= MOST_SHOWN:
        return messages
    others = len(messages) - MOST_SHOWN
    return [*messages[:MOST_SHOWN], f"{path}: {others} more lines {what_others_are}"]
