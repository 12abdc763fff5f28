"""Diarization error rate: the share of speech that is missed, falsely found, or of a wrong speaker.

DER = (missed + false alarm + confusion) / speech of the reference (Fiscus et al. 2006, NIST RT-06S),
under the mapping of speakers that is best for the hypothesis; where people speak at once, each
counts. Times are exact to the bounds of the turns: no frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from speechssl.diarize.turns import Turn


@dataclass(frozen=True)
class DiarizationError:
    """Seconds of each kind of error, and of speech.

    Attributes:
        missed: speech of the reference without a speaker in the hypothesis.
        false_alarm: speakers of the hypothesis where the reference has none.
        confusion: speech with another speaker than the mapping says.
        speech: speech of the reference.
    """

    missed: float = 0.0
    false_alarm: float = 0.0
    confusion: float = 0.0
    speech: float = 0.0

    @property
    def rate(self) -> float:
        """DER, a share of the speech; 0 where there is neither speech nor error."""
        wrong = self.missed + self.false_alarm + self.confusion
        if not self.speech:
            return float("inf") if wrong else 0.0
        return wrong / self.speech

    def __add__(self, other: DiarizationError) -> DiarizationError:
        return DiarizationError(
            self.missed + other.missed,
            self.false_alarm + other.false_alarm,
            self.confusion + other.confusion,
            self.speech + other.speech,
        )


def diarization_error(
    reference: Sequence[Turn], hypothesis: Sequence[Turn], collar: float = 0.0
) -> DiarizationError:
    """Return the error of a hypothesis for one recording.

    Args:
        reference: true turns.
        hypothesis: turns that were found.
        collar: seconds on each side of the bounds of a true turn that do not count (0.25 is usual).
    """
    from scipy.optimize import linear_sum_assignment

    bounds = _bounds(reference, hypothesis, collar)
    if len(bounds) < 2:
        return DiarizationError()
    middles = (bounds[:-1] + bounds[1:]) / 2
    lengths = np.diff(bounds)
    if collar:
        near = [(bound - collar, bound + collar) for turn in reference for bound in turn[:2]]
        lengths[_covered(np.array(near), middles)] = 0.0
    true = _activity(reference, middles)
    found = _activity(hypothesis, middles)
    together = (true * lengths) @ found.T
    rows, columns = linear_sum_assignment(together, maximize=True)
    correct = float(together[rows, columns].sum())
    true_count = true.sum(0)
    found_count = found.sum(0)
    both = np.minimum(true_count, found_count)
    return DiarizationError(
        missed=float(((true_count - both) * lengths).sum()),
        false_alarm=float(((found_count - both) * lengths).sum()),
        confusion=float((both * lengths).sum()) - correct,
        speech=float((true_count * lengths).sum()),
    )


def _bounds(
    reference: Sequence[Turn], hypothesis: Sequence[Turn], collar: float
) -> NDArray[np.float64]:
    """Return all times at which something changes, sorted, each once."""
    times = []
    for turn in (*reference, *hypothesis):
        times += [turn.start, turn.stop]
    for turn in reference if collar else ():
        for bound in (turn.start, turn.stop):
            times += [bound - collar, bound + collar]
    return np.unique(np.array(times, np.float64))


def _activity(turns: Sequence[Turn], middles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (S, I): 1 where a speaker speaks in an interval, given by its middle."""
    spans: dict[str, list[tuple[float, float]]] = {}
    for turn in turns:
        spans.setdefault(turn.speaker, []).append((turn.start, turn.stop))
    active = np.zeros((len(spans), len(middles)))
    for row, name in enumerate(sorted(spans)):
        active[row, _covered(np.array(spans[name]), middles)] = 1.0
    return active


def _covered(spans: NDArray[np.float64], middles: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return (I,): whether any of N spans (N, 2) covers each of the middles, which are sorted."""
    begins = np.searchsorted(middles, spans[:, 0], side="right")
    ends = np.maximum(begins, np.searchsorted(middles, spans[:, 1], side="left"))
    changes = np.zeros(len(middles) + 1, np.int64)
    np.add.at(changes, begins, 1)
    np.add.at(changes, ends, -1)
    return np.cumsum(changes[:-1]) > 0
