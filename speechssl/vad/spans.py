"""From one decision a frame to spans of speech."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Span = tuple[float, float]
"""Start and stop, seconds."""


def runs_of(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return (first, stop) of each run of True in a mask (F,)."""
    steps = np.diff(np.concatenate([[0], mask.astype(np.int8), [0]]))
    firsts = np.flatnonzero(steps == 1).tolist()
    stops = np.flatnonzero(steps == -1).tolist()
    return list(zip(firsts, stops, strict=True))


def speech_spans(
    mask: NDArray[np.bool_],
    frame_seconds: float,
    *,
    min_silence: float,
    min_speech: float,
    pad: float,
) -> list[Span]:
    """Return the spans of speech in the order of time.

    Args:
        mask: (F,) True for frames of speech.
        frame_seconds: from one frame to the next.
        min_silence: shorter pauses, in seconds, are part of the speech around them.
        min_speech: what is shorter, in seconds, is no speech.
        pad: seconds added on both sides of a span, where there is room.
    """
    joined: list[list[int]] = []
    for first, stop in runs_of(mask):
        if joined and (first - joined[-1][1]) * frame_seconds < min_silence:
            joined[-1][1] = stop
        else:
            joined.append([first, stop])
    end = len(mask) * frame_seconds
    spans: list[Span] = []
    for first, stop in joined:
        if (stop - first) * frame_seconds < min_speech:
            continue
        start = max(0.0, first * frame_seconds - pad)
        if spans:
            start = max(start, spans[-1][1])
        spans.append((start, min(end, stop * frame_seconds + pad)))
    return spans
