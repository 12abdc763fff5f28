"""Scores of verification trials: lines `enrol test score`, as `speechssl score` and `evaluate` write them."""

from __future__ import annotations

import math
from pathlib import Path

from speechssl.errors import UserError
from speechssl.regular import read_text


def read_scores(path: Path) -> dict[tuple[str, str], float]:
    """Return (enrol, test) -> score; of a trial that occurs twice the last.

    Raises:
        UserError: the file cannot be read, or a line (named) is not a trial and a finite score.
    """
    remedy = "give the scores that `speechssl score` wrote"
    score_of: dict[tuple[str, str], float] = {}
    for number, line in enumerate(read_text(path, remedy, remedy).splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        try:
            enrol, test, word = fields
            score = float(word)
        except ValueError:
            score = math.nan
        if not math.isfinite(score):
            raise UserError(f"{path}:{number}: {line[:80]!r} is not `enrol test score`; {remedy}")
        score_of[enrol, test] = score
    return score_of
