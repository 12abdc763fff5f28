"""The crops of one utterance: where they lie, and reading them.

Only the samples of the crops are read from disk, with left context for the reverberation where the
file has some.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from speechssl.audio import reading
from speechssl.data.crops import CropSpec
from speechssl.data.decoded import DecodedAudio, ReadFile
from speechssl.data.table import UtteranceTable

Span = tuple[int, int]
"""First sample, and the one behind the last."""

_MERGE = 1.0  # seconds; crops closer than this are read in one piece: cheaper than seeking


class CropReader:
    """Draws and reads the crops of an utterance.

    A crop's offset is uniform over its utterance. A crop longer than its utterance is the whole
    utterance repeated cyclically.

    Args:
        table: the utterances.
        plan: the crop plan.
        sample_rate: Hz.
        context: samples before each crop that are read, too.
        speeds: factors of which one is drawn for an utterance; empty: always 1.
        far_apart_prob: see `speechssl.data.dataset.CropBatches`.
        disjoint: see there.
        read_file: reads a span of a file; None: `audio.reading.read`.
        decoded_bytes: that decoded utterances may take; see `DecodedAudio`.

    Attributes:
        decoded: the utterances that are decoded once; None: every crop is read from its file.
    """

    def __init__(
        self,
        table: UtteranceTable,
        plan: Sequence[CropSpec],
        sample_rate: int,
        *,
        context: int = 0,
        speeds: Sequence[float] = (),
        far_apart_prob: float = 0.0,
        disjoint: bool = False,
        read_file: ReadFile | None = None,
        decoded_bytes: int = 0,
    ) -> None:
        self.read_file = read_file or _read
        self.decoded: DecodedAudio | None = None
        if decoded_bytes:
            self.decoded = DecodedAudio(table, sample_rate, decoded_bytes, self.read_file)
        self.table = table
        self.plan = list(plan)
        self.sample_rate = sample_rate
        self.lengths = [round(group.seconds * sample_rate) for group in plan]
        self.context = context
        self.speeds = speeds
        self.far_apart_prob = far_apart_prob
        self.disjoint = disjoint

    def empty(self, utterances: int) -> list[Tensor]:
        """Return (count, utterances, context + T), not filled, for each group of the plan."""
        groups = []
        for group, length in zip(self.plan, self.lengths, strict=True):
            groups.append(torch.empty(group.count, utterances, self.context + length))
        return groups

    def read(self, row: int, rng: np.random.Generator, crops: Sequence[np.ndarray]) -> None:
        """Draw and read the crops of an utterance.

        Args:
            row: the utterance.
            rng: its random stream.
            crops: (count, context + T) float32 for each group of the plan; it is filled.

        Raises:
            UserError: the utterance cannot be read.
        """
        speed = float(rng.choice(self.speeds)) if self.speeds else 1.0
        total = max(1, int(self.table.seconds[row] * self.sample_rate / speed))
        offsets = self._draw_offsets(total, rng)
        spans: list[Span] = []
        for starts, length in zip(offsets, self.lengths, strict=True):
            for start in starts.tolist():
                spans.append((max(0, start - self.context), min(total, start + length)))
        pieces = {}
        for span in merged(spans, round(_MERGE * self.sample_rate)):
            pieces[span] = self._read_span(row, span, speed)
        for starts, group in zip(offsets, crops, strict=True):
            for start, crop in zip(starts.tolist(), group, strict=True):
                self._cut(pieces, start, crop)

    def _draw_offsets(self, total: int, rng: np.random.Generator) -> list[np.ndarray]:
        """Draw the first sample of each crop, (count,) for each group.

        It is 0 where the utterance, of `total` samples, is shorter than the crop.
        """
        uniform = [rng.random(group.count) for group in self.plan]
        if self.far_apart_prob and rng.random() < self.far_apart_prob:
            five = rng.random(5)
            uniform[0] = np.array([five.min(), five.max()])
        parts = [(0, total)] * len(self.plan)
        if self.disjoint:
            parts = self._draw_parts(total, rng)
        offsets = []
        for draws, part, length in zip(uniform, parts, self.lengths, strict=True):
            low, high = part
            room = max(0, high - low - length)
            offsets.append(low + np.floor(draws * (room + 1)).astype(np.int64))
        return offsets

    def _draw_parts(self, total: int, rng: np.random.Generator) -> list[Span]:
        """Draw the part of the utterance that each group's crops come from.

        Teacher and student have parts in proportion to their longest crops, in either order; an
        utterance that is too short for both is not divided.
        """
        teacher = self._longest_crop("teacher")
        student = self._longest_crop("student")
        if total < teacher + student:
            return [(0, total)] * len(self.plan)
        share = teacher / (teacher + student)
        if rng.random() < 0.5:
            cut = round(total * share)
            parts = {"teacher": (0, cut), "student": (cut, total)}
        else:
            cut = round(total * (1 - share))
            parts = {"student": (0, cut), "teacher": (cut, total)}
        return [parts[group.to] for group in self.plan]

    def _longest_crop(self, receiver: str) -> int:
        groups = zip(self.plan, self.lengths, strict=True)
        return max(length for group, length in groups if group.to == receiver)

    def _read_span(self, row: int, span: Span, speed: float) -> np.ndarray:
        """Read samples span[0]:span[1] of an utterance, counted after the change of speed."""
        start = span[0] * speed / self.sample_rate
        stop = span[1] * speed / self.sample_rate
        if self.decoded is not None and self.decoded.holds(row):
            wave = self.decoded.read(row, start, stop)
        else:
            begin = float(self.table.start[row])
            path = self.table.path(row)
            channel = self.table.channel(row)
            wave = self.read_file(path, self.sample_rate, begin + start, begin + stop, channel)
        if speed != 1.0:
            from scipy.signal import resample_poly

            ratio = Fraction(speed).limit_denominator(100)
            wave = resample_poly(wave, ratio.denominator, ratio.numerator).astype(np.float32)
        count = span[1] - span[0]
        return wave[:count] if len(wave) >= count else np.resize(wave, count)

    def _cut(self, pieces: Mapping[Span, np.ndarray], start: int, out: np.ndarray) -> None:
        """Fill one crop (context + T,) from the pieces that were read.

        There are zeros where the file has no context, and the utterance is repeated beyond its end.
        """
        span = next(span for span in pieces if span[0] <= start < span[1])
        piece = pieces[span]
        first = start - span[0]  # of the crop, in the piece
        context = min(self.context, first)
        out[: self.context - context] = 0.0
        samples = piece[first - context : first + len(out) - self.context]
        end = self.context - context + len(samples)
        out[self.context - context : end] = samples
        if end < len(out):
            out[end:] = np.resize(out[self.context : end], len(out) - end)


def _read(
    path: str, sample_rate: int, start: float, stop: float, channel: int | None
) -> np.ndarray:
    return reading.read(path, sample_rate, start, stop, channel)


def merged(spans: Sequence[Span], gap: int) -> list[Span]:
    """Return the union of spans, sorted, joined where they are at most `gap` apart."""
    union: list[Span] = []
    for start, stop in sorted(spans):
        if union and start <= union[-1][1] + gap:
            first, last = union[-1]
            union[-1] = (first, max(last, stop))
        else:
            union.append((start, stop))
    return union
