"""Verification trials: pairs of utterances, and whether the same speaker says both.

Two formats are read: Kaldi's `enrol test target|nontarget` and VoxCeleb's `1|0 enrol test`.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from speechssl.data.kaldi import write_table
from speechssl.errors import UserError

_KALDI = {"target": True, "nontarget": False}
_VOXCELEB = {"1": True, "0": False}


@dataclass(frozen=True, slots=True)
class Trials:
    """N trials: `enrol` (N,) and `test` (N,) utterance ids as strings, `target` (N,) bool."""

    enrol: npt.NDArray[np.str_]
    test: npt.NDArray[np.str_]
    target: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.target)

    def ids(self) -> list[str]:
        """Every utterance that a trial names, once, sorted."""
        return sorted(set(self.enrol.tolist()) | set(self.test.tolist()))

    def unknown(self, ids: Collection[str]) -> list[str]:
        """The utterances that trials name and `ids` does not hold, sorted."""
        known = set(ids)
        return [name for name in self.ids() if name not in known]


def read_trials(path: str | os.PathLike[str]) -> Trials:
    """Read a trial list; the first line decides which of the two formats it is in.

    Raises UserError, with the line, if the file cannot be read, is empty, or a line is not in that
    format.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig", errors="surrogateescape").split("\n")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give a list of trials") from None
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); give a list of trials"
        ) from error
    rows = [(number, line.split()) for number, line in enumerate(lines, start=1) if line.strip()]
    if not rows:
        raise UserError(
            f"{path}: is empty; give one trial a line, `enrol test target|nontarget` or `1|0 enrol"
            " test`"
        )
    first = rows[0][1]
    kaldi = len(first) == 3 and first[2] in _KALDI
    words, key, enrol, test = (_KALDI, 2, 0, 1) if kaldi else (_VOXCELEB, 0, 1, 2)
    for number, row in rows:
        if len(row) != 3 or row[key] not in words:
            shape = (
                "`enrol test target|nontarget`"
                if kaldi
                else "`1|0 enrol test` or `enrol test target|nontarget`"
            )
            shown = " ".join(row)[:80]
            raise UserError(
                f"{path}:{number}: {shown!r} is not a trial; write it as {shape}, ids without"
                " blanks"
            )
    return Trials(
        np.array([row[enrol] for _, row in rows]),
        np.array([row[test] for _, row in rows]),
        np.array([words[row[key]] for _, row in rows]),
    )


def write_trials(
    trials: Trials, path: str | os.PathLike[str], style: Literal["kaldi", "voxceleb"] = "kaldi"
) -> None:
    """Write a trial list in either format; the file appears whole or not at all."""
    pairs = zip(trials.enrol.tolist(), trials.test.tolist(), trials.target.tolist(), strict=True)
    if style == "kaldi":
        write_table(
            Path(path), ((e, f"{t} {'target' if same else 'nontarget'}") for e, t, same in pairs)
        )
    else:
        write_table(Path(path), (("1" if same else "0", f"{e} {t}") for e, t, same in pairs))
