"""From the clusters of windows to turns: a hidden Markov model over frames of 0.1 s.

A frame's similarity to each speaker is the mean, over the windows that cover it, of their cosines
with the speaker's centre, weighted by how near the frame is to the window's middle. The Viterbi path
changes speakers only where that gains more than the penalty. Centres are then recomputed from the
path, as in the resegmentation of VBx (Landini et al. 2022), with a cosine in place of PLDA.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from speechssl.diarize.clustering import Matrix, unit
from speechssl.diarize.turns import Turn

FRAME = 0.1
"""Seconds."""


@dataclass(frozen=True)
class SpeechWindows:
    """The windows of the speech of a recording.

    Attributes:
        starts: (N,) seconds.
        stops: (N,) seconds.
        vectors: (N, D) of length 1.
        speech: spans of speech, (start, stop) in seconds.
    """

    starts: NDArray[np.float64]
    stops: NDArray[np.float64]
    vectors: Matrix
    speech: Sequence[tuple[float, float]]


def resegment(
    windows: SpeechWindows,
    labels: NDArray[np.int64],
    *,
    scale: float = 10.0,
    change_penalty: float = 2.0,
    rounds: int = 2,
) -> list[Turn]:
    """Return the turns; speakers are named in the order in which they are first heard.

    Args:
        windows: of the recording.
        labels: (N,) cluster of each window.
        scale: weight of a cosine over a second.
        change_penalty: what a change of speakers costs.
        rounds: times that the centres are recomputed.
    """
    frames = _speech_frames(windows.speech)
    centres = _centres(windows.vectors, labels)
    path = np.zeros(len(frames), np.int64)
    for _ in range(rounds + 1):
        if len(centres) < 2:
            path = np.zeros(len(frames), np.int64)
            break
        similarity = _frame_means(windows, windows.vectors @ centres.T, frames)
        path = viterbi(similarity * (scale * FRAME), change_penalty)
        centres = _centres(windows.vectors, _window_labels(windows, frames, path))
    return _turns(windows.speech, frames, path)


def viterbi(scores: Matrix, change_penalty: float) -> NDArray[np.int64]:
    """Return the state (F,) of each frame on the best path.

    Args:
        scores: (F, S) logarithmic, of each state in each frame.
        change_penalty: subtracted for each change of state.
    """
    count, states = scores.shape
    came_from = np.zeros((count, states), np.int64)
    best = scores[0].copy()
    for frame in range(1, count):
        leader = int(best.argmax())
        changes = best < best[leader] - change_penalty
        came_from[frame] = np.where(changes, leader, np.arange(states))
        best = np.where(changes, best[leader] - change_penalty, best) + scores[frame]
    path = np.zeros(count, np.int64)
    path[-1] = best.argmax()
    for frame in range(count - 1, 0, -1):
        path[frame - 1] = came_from[frame, path[frame]]
    return path


def _centres(vectors: Matrix, labels: NDArray[np.int64]) -> Matrix:
    """Return the centre (S, D), of length 1, of each cluster that has members."""
    names = [name for name in np.unique(labels).tolist() if name >= 0]
    return unit(np.stack([vectors[labels == name].mean(0) for name in names]))


def _speech_frames(speech: Sequence[tuple[float, float]]) -> NDArray[np.int64]:
    """Return the indices (F,) of the frames of speech; each span has one at least."""
    frames = []
    for start, stop in speech:
        first = round(start / FRAME)
        frames.append(np.arange(first, max(first + 1, round(stop / FRAME))))
    return np.unique(np.concatenate(frames))


def _frame_means(windows: SpeechWindows, values: Matrix, frames: NDArray[np.int64]) -> Matrix:
    """Return values (F, S) of frames from those (N, S) of the windows that cover them."""
    count = int(max(frames.max(), round(float(windows.stops.max()) / FRAME))) + 2
    sums = np.zeros((count, values.shape[1]))
    weights = np.zeros((count, 1))
    for start, stop, value in zip(windows.starts, windows.stops, values, strict=True):
        first = round(float(start) / FRAME)
        last = max(first + 1, round(float(stop) / FRAME))
        places = (np.arange(last - first) + 0.5) / (last - first)
        weight = np.minimum(places, 1 - places)[:, None]
        sums[first:last] += weight * value
        weights[first:last] += weight
    means: Matrix = sums[frames] / np.maximum(weights[frames], 1e-9)
    return means


def _window_labels(
    windows: SpeechWindows, frames: NDArray[np.int64], path: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the speaker (N,) of the middle of each window; -1 where that is no speech."""
    middles = np.round((windows.starts + windows.stops) / 2 / FRAME).astype(np.int64)
    places = np.minimum(np.searchsorted(frames, middles), len(frames) - 1)
    return np.where(frames[places] == middles, path[places], -1)


def _turns(
    speech: Sequence[tuple[float, float]], frames: NDArray[np.int64], path: NDArray[np.int64]
) -> list[Turn]:
    """Return the spans of speech, cut where the speaker changes."""
    speakers = dict(zip(frames.tolist(), path.tolist(), strict=True))
    names: dict[int, str] = {}
    turns: list[Turn] = []
    for start, stop in speech:
        first = round(start / FRAME)
        begin = start
        speaker = speakers[first]
        for frame in range(first + 1, round(stop / FRAME)):
            if speakers[frame] != speaker:
                turns.append(Turn(begin, frame * FRAME, _name(names, speaker)))
                begin = frame * FRAME
                speaker = speakers[frame]
        turns.append(Turn(begin, stop, _name(names, speaker)))
    return turns


def _name(names: dict[int, str], speaker: int) -> str:
    return names.setdefault(speaker, f"speaker{len(names) + 1}")
