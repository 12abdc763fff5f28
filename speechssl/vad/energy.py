"""Energy: frames whose level is above a threshold between pauses and loud speech.

It needs no model, and is right where speech is the loudest thing in the recording: read speech, calls, quiet
meetings. Music and loud noise are taken for speech; `silero` tells them apart.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from speechssl.audio.silence import THRESHOLD
from speechssl.errors import UserError
from speechssl.vad.spans import Span, speech_spans

_FRAME = 0.01  # seconds
_SMOOTHED = 5  # frames whose mean power counts
_QUIETEST = -120.0  # dB of digital silence
_LOUD = 95  # percentile of the levels that stands for loud speech
_PAUSES = 5  # percentile that stands for the pauses


class EnergyDetector:
    """Levels of 10 ms frames against one threshold for the whole recording.

    Args:
        below_loud: dB below the 95th percentile of the levels above which a frame is speech.
        share: where the pauses are noisier than that: the threshold lies at least this share of
            the way from the pauses (5th percentile of the levels) to loud speech (95th).
        min_silence: shorter pauses, in seconds, are part of the speech around them.
        min_speech: what is shorter, in seconds, is no speech.
        pad: seconds added on both sides.

    Raises:
        UserError: a setting that cannot be.
    """

    sample_rate = 16000

    def __init__(
        self,
        *,
        below_loud: float = 35.0,
        share: float = 0.25,
        min_silence: float = 0.5,
        min_speech: float = 0.15,
        pad: float = 0.03,
    ) -> None:
        if not (below_loud > 0 and 0 <= share < 1 and min(min_silence, min_speech, pad) >= 0):
            raise UserError(
                f"energy: below_loud={below_loud:g}, share={share:g}: give more than 0 dB, a share"
                " from 0 to 1, and seconds of at least 0"
            )
        self.below_loud = below_loud
        self.share = share
        self.min_silence = min_silence
        self.min_speech = min_speech
        self.pad = pad

    def find(self, blocks: Iterable[NDArray[np.float32]]) -> list[Span]:
        """Return the spans of speech of a recording, given as blocks (T,) at `sample_rate` Hz."""
        levels = frame_levels(blocks, round(_FRAME * self.sample_rate))
        silence = 20 * np.log10(THRESHOLD)
        audible = levels[levels > silence]
        if not len(audible):
            return []
        loud = float(np.percentile(audible, _LOUD))
        pauses = max(float(np.percentile(levels, _PAUSES)), loud - 60.0)
        threshold = max(loud - self.below_loud, pauses + self.share * (loud - pauses), silence)
        return speech_spans(
            levels >= threshold,
            _FRAME,
            min_silence=self.min_silence,
            min_speech=self.min_speech,
            pad=self.pad,
        )


def frame_levels(blocks: Iterable[NDArray[np.float32]], size: int) -> NDArray[np.float64]:
    """Return the level (F,) in dB (a full-scale square wave: 0) of frames of `size` samples.

    The power is averaged over five frames. A last frame that is not full is left out.
    """
    powers: list[NDArray[np.float64]] = []
    rest = np.zeros(0, np.float32)
    for block in blocks:
        samples = np.concatenate([rest, block])
        count = len(samples) // size
        frames = samples[: count * size].reshape(count, size).astype(np.float64)
        # An offset of the converter is no sound.
        powers.append(frames.var(axis=1))
        rest = samples[count * size :]
    power = np.concatenate(powers) if powers else np.zeros(0)
    if not len(power):
        return power
    smooth = np.convolve(power, np.ones(_SMOOTHED), "same")
    covered = np.convolve(np.ones(len(power)), np.ones(_SMOOTHED), "same")
    if len(power) < _SMOOTHED:
        smooth = np.full(len(power), power.mean())
        covered = np.ones(len(power))
    levels: NDArray[np.float64] = 10 * np.log10(np.maximum(smooth / covered, 1e-12))
    return np.maximum(levels, _QUIETEST)


PART = EnergyDetector
