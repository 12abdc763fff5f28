"""Crops of utterances in batches: batch s is a pure function of (seed, s, position in the global
    batch).

The number of workers, the number of ranks and a resume therefore change nothing: rank r of w reads
its slice of the batch that one process would have read. Only the samples of the crops are read from
disk, with left context for the reverberation where the file has some. Every utterance counts once
an epoch, and no label is looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from speechssl.audio import members, reading
from speechssl.audio.remotes import Remote
from speechssl.data.crops import Augmenter, Batch, CropSpec, parse_plan
from speechssl.data.loader import Loader, make_loader, worker_count
from speechssl.data.manifest import Utterance
from speechssl.data.positives import Positives
from speechssl.errors import UserError

__all__ = [
    "Augmenter", "Batch", "CropBatches", "CropSpec", "Loader", "make_loader", "parse_plan", "worker_count",
]  # fmt: skip

_BLOCK = 8  # utterances augmented at once: small enough for the cache, and the block that babble is made of
_MERGE = 1.0  # seconds; crops closer than this are read in one piece: decoding across is cheaper than seeking
_ATTEMPTS = 10  # utterances tried in the place of one that cannot be read
_ORDER, _CROPS = 1, 2  # kinds of random stream


class _Table:
    """The utterances as a few arrays.

    A million small Python objects would be copied into every worker, page by page, as their
    reference counts change: host memory would grow through the first epoch. Arrays stay shared.
    """

    def __init__(self, utterances: Sequence[Utterance]) -> None:
        texts: list[bytes] = []
        for utterance in utterances:
            # Names of files may hold bytes that are not UTF-8.
            texts.append(utterance.id.encode(errors="surrogateescape"))
            texts.append(str(utterance.path).encode(errors="surrogateescape"))
        self._is_remote = np.array([isinstance(u.path, Remote) for u in utterances])
        self._text = np.frombuffer(b"".join(texts), dtype=np.uint8)
        self._ends = np.cumsum([0, *map(len, texts)], dtype=np.int64)
        self.start = np.array([u.start or 0.0 for u in utterances])
        self.seconds = np.array([u.seconds for u in utterances], dtype=np.float64)

    def __len__(self) -> int:
        return len(self.seconds)

    def id(self, row: int) -> str:
        return self._string(2 * row)

    def path(self, row: int) -> str:
        path = self._string(2 * row + 1)
        return Remote(path) if self._is_remote[row] else path

    def _string(self, number: int) -> str:
        text = self._text[self._ends[number] : self._ends[number + 1]].tobytes()
        return text.decode(errors="surrogateescape")


class CropBatches(Dataset[Batch]):
    """Training batches, indexed by step.

    An epoch is a random order of all utterances, cut into steps of batch_size * world; the
    remainder, less than one batch and different in each epoch, is dropped. A crop's offset is
    uniform over its utterance. A crop longer than its utterance is the whole utterance repeated
    cyclically. A file that cannot be read is replaced by another utterance, drawn from the same
    random stream, and listed in `Batch.skipped`.

    Args:
        utterances: what to train on; their `seconds` must be known.
        plan: the crop plan.
        rate: Hz.
        batch_size: utterances a step on this rank.
        seed: of everything random.
        rank, world: this process and the number of processes.
        augment: None, or the augmentation. Babble is the same for any number of ranks if batch_size
            is a multiple of 8.
        augment_here: False leaves `augment.apply` to the caller (on the GPU), who finds the choices
            in the batch.
        overlap: probability rho with which the two crops of the first group take the smallest and
            the largest of five uniform offsets, so that they overlap less (methods/README.md 1.3).
        disjoint: crops for the teacher and crops for the student come from two parts of the
            utterance that do not overlap, whichever comes first, wherever it is long enough for
            both (hyperion's recipe; the plan then has groups to: teacher and to: student).
        weight_by_duration: an epoch visits utterances in proportion to their duration (systematic
            sampling:
            as many visits as utterances) in place of once each.
        shards_at_once: None, or how many tar shards an epoch mixes at a time: it goes through the
            shards in random order, so many together, and their utterances in random order. Reading
            then stays in a few files, which disks that turn and caches of remote stores need.
        positives: partners from the same pseudo-cluster: where an utterance takes one, the second
            half of the first group that the teacher sees (all of it, if the student does not see
            it) is the partner's.

    Raises:
        UserError: no utterances, a batch larger than the data set, or options that do not fit the
            plan.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        plan: Sequence[CropSpec],
        *,
        rate: int = 16000,
        batch_size: int = 32,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        augment: Augmenter | None = None,
        augment_here: bool = True,
        overlap: float = 0.0,
        disjoint: bool = False,
        weight_by_duration: bool = False,
        shards_at_once: int | None = None,
        positives: Positives | None = None,
    ) -> None:
        _check(utterances, plan, batch_size, world, overlap, disjoint)
        self.plan, self.rate, self.batch_size, self.seed = list(plan), rate, batch_size, seed
        self.rank, self.world, self.augment, self.augment_here = rank, world, augment, augment_here
        self.overlap, self.disjoint, self.weight_by_duration = overlap, disjoint, weight_by_duration
        self.positives = positives
        self.table = _Table(utterances)
        self.lengths = [round(group.seconds * rate) for group in plan]
        augmented = augment is not None and any(group.augment != "none" for group in plan)
        self.context = augment.context_samples if augment is not None and augmented else 0
        self.speeds = augment.speed if augment is not None else ()
        self.steps_per_epoch = len(self.table) // (batch_size * world)
        self._order: tuple[int, np.ndarray] | None = None
        self.shards_at_once, self._shard = shards_at_once, np.zeros(0, dtype=np.int64)
        if shards_at_once is not None:
            self._shard = _shards(utterances, shards_at_once)

    def __len__(self) -> int:
        """Steps in an epoch; indices may go beyond, into later epochs."""
        return self.steps_per_epoch

    def __getitem__(self, step: int) -> Batch:
        """The crops of one step, for this rank. Raises UserError if nothing in the data set can be
        read.
        """
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # the last bit of a sum depends on the threads; a batch must not
        try:
            return self._batch(step)
        finally:
            torch.set_num_threads(threads)

    def _batch(self, step: int) -> Batch:
        epoch, number = divmod(step, self.steps_per_epoch)
        first = self.rank * self.batch_size
        skipped: list[tuple[str, str]] = []
        chosen, plans = [], []
        groups = self._empty(self.batch_size)
        for place, position in enumerate(range(first, first + self.batch_size)):
            rng = self._rng(_CROPS, step, position)
            row = int(self._epoch(epoch)[number * self.batch_size * self.world + position])
            crops = [
                group[:, place].numpy() for group in groups
            ]  # views: written into the batch at once
            row = self._read_first(row, rng, crops, skipped)
            self._with_partner(row, crops, rng, skipped)
            chosen.append(row)
            plans.append(self._plans(rng))
        batch = Batch(step, groups, torch.tensor(chosen), skipped)
        if self.augment is not None:
            stacked = [np.stack([one[g] for one in plans], axis=1) for g in range(len(self.plan))]
            batch.plans, batch.context = stacked, self.context
            if self.augment_here:
                batch.groups = [
                    self._augmented(group, plan)
                    for group, plan in zip(groups, stacked, strict=True)
                ]
                batch.plans, batch.context = None, 0
        return batch

    def _empty(self, utterances: int) -> list[Tensor]:
        """(count, utterances, context + T) for each group of the plan."""
        sizes = zip(self.plan, self.lengths, strict=True)
        return [
            torch.empty(group.count, utterances, self.context + length) for group, length in sizes
        ]

    def _with_partner(
        self,
        row: int,
        crops: list[np.ndarray],
        rng: np.random.Generator,
        skipped: list[tuple[str, str]],
    ) -> None:
        """Put crops of a partner, if there is to be one, into the teacher's first group."""
        other = None if self.positives is None else self.positives.partner(row, rng)
        if other is None:
            return
        theirs = [group[:, 0].numpy() for group in self._empty(1)]
        try:
            self._read_crops(other, rng, theirs)
        except (UserError, OSError) as error:
            skipped.append((self.table.id(other), str(error)))
            return
        group = next(g for g, spec in enumerate(self.plan) if spec.to != "student")
        first = 0 if self.plan[group].to == "teacher" else self.plan[group].count // 2
        crops[group][first:] = theirs[group][first:]

    def _plans(self, rng: np.random.Generator) -> list[np.ndarray]:
        if self.augment is None:
            return []
        pairs = zip(self.plan, self.lengths, strict=True)
        return [
            self.augment.draw(rng, group.count, length, group.augment) for group, length in pairs
        ]

    def _augmented(self, waves: Tensor, plan: np.ndarray) -> Tensor:
        """(count, B, context + T) to (count, B, T), a few utterances at a time so that they stay in
        the cache.
        """
        assert self.augment is not None
        out = torch.empty(*waves.shape[:2], waves.shape[2] - self.context)
        for start in range(0, waves.shape[1], _BLOCK):
            part = slice(start, start + _BLOCK)
            out[:, part] = self.augment.apply(waves[:, part], plan[:, part], self.context)
        return out

    def _rng(self, kind: int, *key: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence([self.seed, kind, *key]))

    def _epoch(self, epoch: int) -> np.ndarray:
        """The order of an epoch; the last one asked for is kept."""
        if self._order is None or self._order[0] != epoch:
            rng, count = self._rng(_ORDER, epoch), len(self.table)
            rows = np.arange(count)
            if self.weight_by_duration:
                share = np.cumsum(self.table.seconds) / self.table.seconds.sum()
                rows = np.searchsorted(share, (np.arange(count) + rng.random()) / count).clip(
                    max=count - 1
                )
            rows = rng.permutation(rows)
            if self.shards_at_once is not None:
                turn = rng.permutation(self._shard.max() + 1) // self.shards_at_once
                rows = rows[np.argsort(turn[self._shard[rows]], kind="stable")]
            self._order = (epoch, rows)
        return self._order[1]

    def _read_first(
        self,
        row: int,
        rng: np.random.Generator,
        crops: list[np.ndarray],
        skipped: list[tuple[str, str]],
    ) -> int:
        """Fill `crops` from an utterance, or the first readable one among random others; which it
        was.
        """
        reason = ""
        for _ in range(_ATTEMPTS):
            try:
                self._read_crops(row, rng, crops)
                return row
            except (UserError, OSError) as error:
                reason = str(error)
                skipped.append((self.table.id(row), reason))
                row = int(rng.integers(len(self.table)))
        raise UserError(
            f"data: {_ATTEMPTS} utterances in a row cannot be read, the last because: {reason}"
        )

    def _read_crops(self, row: int, rng: np.random.Generator, crops: list[np.ndarray]) -> None:
        """Fill (count, context + T) float32 for each group of the plan."""
        speed = float(rng.choice(self.speeds)) if self.speeds else 1.0
        total = max(1, int(self.table.seconds[row] * self.rate / speed))
        offsets = self._offsets(total, rng)
        spans = [
            (max(0, int(start) - self.context), min(total, int(start) + length))
            for starts, length in zip(offsets, self.lengths, strict=True)
            for start in starts
        ]
        pieces = {
            span: self._read(row, span, speed) for span in merged(spans, round(_MERGE * self.rate))
        }
        for starts, out in zip(offsets, crops, strict=True):
            for start, crop in zip(starts, out, strict=True):
                self._cut(pieces, int(start), crop)

    def _offsets(self, total: int, rng: np.random.Generator) -> list[np.ndarray]:
        """First sample of each crop, for each group; 0 where the utterance is shorter than the
        crop.
        """
        uniform = [rng.random(group.count) for group in self.plan]
        if self.overlap and rng.random() < self.overlap:
            five = rng.random(5)
            uniform[0] = np.array([five.min(), five.max()])
        parts = [(0, total)] * len(self.plan)
        if self.disjoint:
            parts = self._parts(total, rng)
        room = [
            max(0, high - low - length)
            for (low, high), length in zip(parts, self.lengths, strict=True)
        ]
        return [
            low + np.floor(u * (slack + 1)).astype(np.int64)
            for u, slack, (low, _) in zip(uniform, room, parts, strict=True)
        ]

    def _parts(self, total: int, rng: np.random.Generator) -> list[tuple[int, int]]:
        """The span of samples that each group's crops come from: the teacher's part and the
        student's.
        """
        teacher, student = (
            max(
                length
                for group, length in zip(self.plan, self.lengths, strict=True)
                if group.to == role
            )
            for role in ("teacher", "student")
        )
        if total < teacher + student:
            return [(0, total)] * len(self.plan)
        share = teacher / (teacher + student)
        if rng.random() < 0.5:
            cut = round(total * share)
            spans = {"teacher": (0, cut), "student": (cut, total)}
        else:
            cut = round(total * (1 - share))
            spans = {"student": (0, cut), "teacher": (cut, total)}
        return [spans[group.to] for group in self.plan]

    def _read(self, row: int, span: tuple[int, int], speed: float) -> np.ndarray:
        """Samples span[0]:span[1] of an utterance, counted after the change of speed."""
        count = span[1] - span[0]
        start, stop = (float(self.table.start[row]) + sample * speed / self.rate for sample in span)
        wave = reading.read(self.table.path(row), self.rate, start, stop)
        if speed != 1.0:
            from scipy.signal import resample_poly

            ratio = Fraction(speed).limit_denominator(100)
            wave = resample_poly(wave, ratio.denominator, ratio.numerator).astype(np.float32)
        return wave[:count] if len(wave) >= count else np.resize(wave, count)

    def _cut(self, pieces: dict[tuple[int, int], np.ndarray], start: int, out: np.ndarray) -> None:
        """Fill (context + T,) from what was read: zeros where there is no context, cyclic beyond
        the end.
        """
        (low, high), wave = next(
            item for item in pieces.items() if item[0][0] <= start < item[0][1]
        )
        context = min(self.context, start - low)
        out[: self.context - context] = 0.0
        have = wave[start - low - context : start - low + len(out) - self.context]
        end = self.context - context + len(have)
        out[self.context - context : end] = have
        if end < len(out):
            out[end:] = np.resize(out[self.context : end], len(out) - end)


def merged(spans: Sequence[tuple[int, int]], gap: int) -> list[tuple[int, int]]:
    """The union of half-open spans as sorted disjoint ones, joined where they are at most `gap`
    apart.
    """
    out: list[tuple[int, int]] = []
    for start, stop in sorted(spans):
        if out and start <= out[-1][1] + gap:
            out[-1] = (out[-1][0], max(out[-1][1], stop))
        else:
            out.append((start, stop))
    return out


def _shards(utterances: Sequence[Utterance], at_once: int) -> np.ndarray:
    """(N,) the number of each utterance's shard."""
    addresses = [members.parse(str(utterance.path)) for utterance in utterances]
    names = sorted({member.archive for member in addresses if member is not None})
    if at_once < 1 or not names or None in addresses:
        raise UserError(
            f"data.shards_at_once={at_once}: is a number of shards, at least 1, and needs"
            " data.train to be directories of `speechssl shard`; leave it out for files"
        )
    place = {name: number for number, name in enumerate(names)}
    return np.array(
        [place[member.archive] for member in addresses if member is not None], dtype=np.int64
    )


def _check(
    utterances: Sequence[Utterance],
    plan: Sequence[CropSpec],
    batch_size: int,
    world: int,
    overlap: float,
    disjoint: bool,
) -> None:
    if not plan:
        raise UserError("crops: the plan is empty; give at least one {count: 2, seconds: 3.0}")
    unknown = next((u.id for u in utterances if not u.seconds or not u.seconds > 0), None)
    if unknown is not None:
        raise UserError(
            f"data: the duration of {unknown} is unknown or zero; write utt2dur, or remove it"
        )
    if batch_size < 1:
        raise UserError(f"data: batch_size {batch_size} is not positive; raise train.batch_size")
    if batch_size * world > len(utterances):
        ranks = f" x {world} processes" if world > 1 else ""
        raise UserError(
            f"data: batch_size {batch_size}{ranks} is larger than the {len(utterances)} utterances;"
            " lower train.batch_size"
        )
    if not 0.0 <= overlap <= 1.0 or (overlap and plan[0].count != 2):
        raise UserError(
            f"data: overlap={overlap:g} is a probability, and needs two crops in the first group of"
            " the plan"
        )
    if disjoint and {group.to for group in plan} != {"teacher", "student"}:
        raise UserError(
            "data: disjoint needs a crop plan with groups to: teacher and to: student, and none"
            " to: both"
        )
