"""Verification trials: pairs of utterances or enrolled models, and whether one speaker says both.

Two formats are read: Kaldi's `enrol test target|nontarget` and VoxCeleb's `1|0 enrol test`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from speechssl.audio.tables import MAX_ID
from speechssl.data.kaldi import write_table
from speechssl.errors import UserError
from speechssl.regular import read_text


@dataclass(frozen=True, slots=True)
class TrialFormat:
    """A way to write a trial as a line of three fields.

    Attributes:
        shape: the line, for messages.
        enrol, test, key: positions of the two ids and of the word for same or different.
        words: the words, and whether they mean the same speaker.
    """

    shape: str
    enrol: int
    test: int
    key: int
    words: dict[str, bool]

    def fits(self, row: Sequence[str]) -> bool:
        """Return True if the fields of a line are a trial in this format."""
        return len(row) == 3 and row[self.key] in self.words


KALDI = TrialFormat("`enrol test target|nontarget`", 0, 1, 2, {"target": True, "nontarget": False})
VOXCELEB = TrialFormat("`1|0 enrol test`", 1, 2, 0, {"1": True, "0": False})


@dataclass(frozen=True, slots=True)
class Trials:
    """N verification trials.

    Attributes:
        enrol: (N,) utterance ids, strings.
        test: (N,) utterance ids, strings.
        target: (N,) bool, True for the same speaker.
    """

    enrol: npt.NDArray[np.str_]
    test: npt.NDArray[np.str_]
    target: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.target)

    def sha256(self) -> str:
        """Return a digest (hexadecimal) of the trials in their order, in whichever format they were."""
        digest = hashlib.sha256()
        for side in (self.enrol, self.test):
            digest.update("\n".join(side.tolist()).encode(errors="surrogateescape") + b"\n\n")
        digest.update(self.target.tobytes())
        return digest.hexdigest()

    def ids(self) -> list[str]:
        """Return every utterance that a trial names, once, sorted."""
        return sorted(set(self.enrol.tolist()) | set(self.test.tolist()))

    def unknown(self, ids: Collection[str]) -> list[str]:
        """Return the utterances that trials name and `ids` does not hold, sorted."""
        known = set(ids)
        return [name for name in self.ids() if name not in known]


def read_trials(path: str | os.PathLike[str]) -> Trials:
    """Read a trial list; the first line decides which of the two formats it is in.

    Raises:
        UserError: the file cannot be read, is empty, or a line (named) is not in that format.
    """
    text = list_text(path)
    words = text.split()
    if not words:
        raise empty_list(path)
    first = next(row for _, row in numbered_rows(text))
    form = KALDI if KALDI.fits(first) else VOXCELEB
    # A list may have millions of lines: it is split as a whole, and the lines are only counted.
    widths = {len(line.split()) for line in text.split("\n")}
    keys = words[form.key :: 3]
    if not widths <= {0, 3} or not set(keys) <= form.words.keys() or _longest(words) > MAX_ID:
        raise _not_trials(path, text, form)
    return Trials(
        np.array(words[form.enrol :: 3]),
        np.array(words[form.test :: 3]),
        np.array([form.words[key] for key in keys]),
    )


def empty_list(path: str | os.PathLike[str]) -> UserError:
    """Return the error about a list without a line."""
    return UserError(
        f"{path}: is empty; give one trial a line, `enrol test target|nontarget` or `1|0 enrol test`"
    )


def _longest(words: list[str]) -> int:
    return max(map(len, words))


def _not_trials(path: str | os.PathLike[str], text: str, form: TrialFormat) -> UserError:
    """Return the error about the first line that is no trial."""
    for number, row in numbered_rows(text):
        fault = line_fault(f"{path}:{number}", row, form)
        if fault:
            return UserError(fault)
    raise AssertionError("every line is a trial")


def line_fault(where: str, row: list[str], form: TrialFormat | None) -> str:
    """Return what is wrong with a line of a list, or "".

    Args:
        where: path and number of the line, for the message.
        row: the fields of the line.
        form: the format of the list; None: lines `enrol test` without answers.
    """
    if form is None and len(row) != 2:
        shown = " ".join(row)[:80]
        return (
            f"{where}: {shown!r} is not `enrol test`, as the first line is; write every line in one"
            " form"
        )
    if form is not None and not form.fits(row):
        shown = " ".join(row)[:80]
        expected = KALDI.shape if form is KALDI else f"{VOXCELEB.shape} or {KALDI.shape}"
        return f"{where}: {shown!r} is not a trial; write it as {expected}, ids without blanks"
    if _longest(row) > MAX_ID:
        return f"{where}: an id has over {MAX_ID} characters; shorten it"
    return ""


def list_text(path: str | os.PathLike[str]) -> str:
    """Return the text of a list.

    Raises:
        UserError: the file cannot be read.
    """
    remedy = "give a list of trials"
    return read_text(Path(path), remedy, remedy).removeprefix("\ufeff")


def numbered_rows(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and fields of every line that is not blank."""
    for number, line in enumerate(text.split("\n"), start=1):
        fields = line.split()
        if fields:
            yield number, fields


def read_pairs(path: str | os.PathLike[str]) -> Trials:
    """Read a list to be scored: trials in either format, or lines `enrol test` without answers.

    Where there are no answers, no trial is a target.

    Raises:
        UserError: as `read_trials`.
    """
    text = list_text(path)
    first = next((row for _, row in numbered_rows(text)), [])
    if len(first) != 2:
        return read_trials(path)
    enrol = []
    test = []
    for number, row in numbered_rows(text):
        fault = line_fault(f"{path}:{number}", row, form=None)
        if fault:
            raise UserError(fault)
        enrol.append(row[0])
        test.append(row[1])
    return Trials(np.array(enrol), np.array(test), np.zeros(len(test), bool))


def write_pairs(trials: Trials, path: str | os.PathLike[str]) -> None:
    """Write the two ids of each trial, without the answer: what is to be scored.

    Raises:
        UserError: it cannot be written.
    """
    write_table(Path(path), zip(trials.enrol.tolist(), trials.test.tolist(), strict=True))


def read_enrolment(path: str | os.PathLike[str]) -> dict[str, list[str]]:
    """Read Kaldi's spk2utt: lines `model utterance utterance ...`, what each model is enrolled from.

    A model of several lines has the utterances of all of them, each once.

    Raises:
        UserError: the file cannot be read or is empty, or a line (named) has no utterance.
    """
    models: dict[str, dict[str, None]] = {}
    for number, row in numbered_rows(list_text(path)):
        if len(row) < 2:
            raise UserError(
                f"{path}:{number}: model {row[0][:80]!r} has no utterance; write `model utterance"
                " ...`"
            )
        if _longest(row) > MAX_ID:
            raise UserError(f"{path}:{number}: an id has over {MAX_ID} characters; shorten it")
        models.setdefault(row[0], {}).update(dict.fromkeys(row[1:]))
    if not models:
        raise UserError(f"{path}: is empty; give lines `model utterance utterance ...`")
    return {model: list(utterances) for model, utterances in models.items()}


def write_enrolment(models: Mapping[str, Sequence[str]], path: str | os.PathLike[str]) -> None:
    """Write what models are enrolled from, sorted: lines `model utterance utterance ...`.

    Raises:
        UserError: it cannot be written.
    """
    write_table(Path(path), ((model, " ".join(models[model])) for model in sorted(models)))


def write_trials(
    trials: Trials, path: str | os.PathLike[str], style: Literal["kaldi", "voxceleb"] = "kaldi"
) -> None:
    """Write a trial list in either format; the file appears whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    pairs = zip(trials.enrol.tolist(), trials.test.tolist(), trials.target.tolist(), strict=True)
    if style == "kaldi":
        word = {same: word for word, same in KALDI.words.items()}
        rows = ((enrol, f"{test} {word[same]}") for enrol, test, same in pairs)
    else:
        word = {same: word for word, same in VOXCELEB.words.items()}
        rows = ((word[same], f"{enrol} {test}") for enrol, test, same in pairs)
    write_table(Path(path), rows)
