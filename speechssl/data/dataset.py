"""Batches of crops: batch s is a function of (seed, s, position in the global batch) alone.

The number of workers, the number of ranks and a resume therefore change nothing: rank r of w reads
its slice of the batch that one process would have read. No label is looked at.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from speechssl.data.crop_reading import CropReader
from speechssl.data.crops import Augmenter, Batch, CropSpec
from speechssl.data.epochs import CROP_STREAM, random_stream
from speechssl.data.manifest import Utterance
from speechssl.data.order import DataOrder
from speechssl.data.order_choice import choose_order
from speechssl.data.positives import Positives
from speechssl.data.sequential import Reading, SequentialOrder
from speechssl.data.shard_cache import ShardCache
from speechssl.data.table import UtteranceTable
from speechssl.errors import UserError
from speechssl.pools import ThreadPool

_BLOCK = 8  # utterances augmented at once: they fit the cache, and babble is made of as many
_ATTEMPTS = 10  # utterances tried in the place of one that cannot be read
_REQUESTS = 16  # of a loader process to a store, at a time


class _Read(NamedTuple):
    """What came of one position: the row that was read, (id, reason) of others, and what to do."""

    row: int
    skipped: list[tuple[str, str]]
    plans: list[np.ndarray]


class CropBatches(Dataset[Batch]):
    """Training batches, indexed by step.

    An epoch is a random order of all utterances, cut into steps of batch_size * world; the
    remainder, less than one batch and different in each epoch, is dropped. A file that cannot be
    read is replaced by another utterance, drawn from the same random stream, and listed in
    `Batch.skipped`.

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
        far_apart_prob: probability rho with which the two crops of the first group take the smallest and
            the largest of five uniform offsets, so that they overlap less (methods/README.md 1.3).
        disjoint: crops for the teacher and crops for the student come from two parts of the
            utterance that do not overlap, whichever comes first, wherever it is long enough for
            both (hyperion's recipe; the plan then has groups to: teacher and to: student).
        weight_by_duration: an epoch visits utterances in proportion to their duration in place of
            once each.
        replacement: draw the utterances of an epoch with replacement; see `EpochOrder`.
        source_shares: share of the visits that each source gets; see `epochs.visit_weights`.
        source_temperature: the same by the sizes of the sources.
        shards_at_once: None, or how many tar shards an epoch mixes at a time; see `EpochOrder`.
            Reading then stays in a few files, as spinning disks and caches of remote stores need.
        positives: partners from the same group: where an utterance takes one, the second
            half of the first group that the teacher sees (all of it, if the student does not see
            it) is the partner's.
        order: None, or how the run goes through its data; see `order.py`.
        sequential: None, or how shards are read one behind the other; see `sequential.py`.
        requests: utterances of a batch that a loader process reads at a time; 0: 16 if some are
            behind addresses, otherwise 1. It changes no batch.
        decoded_bytes: that decoded utterances may take; see `DecodedAudio`. With `sequential` none are
            kept.

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
        far_apart_prob: float = 0.0,
        disjoint: bool = False,
        weight_by_duration: bool = False,
        replacement: bool = False,
        source_shares: Sequence[float] = (),
        source_temperature: float = 1.0,
        shards_at_once: int | None = None,
        positives: Positives | None = None,
        order: DataOrder | None = None,
        sequential: Reading | None = None,
        requests: int = 0,
        decoded_bytes: int = 0,
    ) -> None:
        _check_plan(plan, far_apart_prob, disjoint)
        _check_utterances(utterances, batch_size, world)
        self.plan = list(plan)
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world = world
        self.augment = augment
        self.augment_here = augment_here
        self.positives = positives
        self.table = UtteranceTable(utterances)
        self.steps_per_epoch = len(self.table) // (batch_size * world)
        self.order = choose_order(
            utterances,
            batch_size,
            world,
            seed,
            order=order,
            sequential=sequential,
            weight_by_duration=weight_by_duration,
            replacement=replacement,
            source_shares=source_shares,
            source_temperature=source_temperature,
            shards_at_once=shards_at_once,
        )
        self.cache: ShardCache | None = None
        if sequential is not None and self.table.has_addresses:
            self.cache = ShardCache(sequential.cache, sequential.cache_gb)
        self.context = 0
        if augment is not None and any(group.augment != "none" for group in plan):
            self.context = augment.context_samples
        self.reader = CropReader(
            self.table,
            plan,
            rate,
            context=self.context,
            speeds=() if augment is None else augment.speed,
            far_apart_prob=far_apart_prob,
            disjoint=disjoint,
            read_file=None if self.cache is None else self.cache.read,
            decoded_bytes=0 if sequential is not None else decoded_bytes,
        )
        self.requests = requests or (_REQUESTS if self.table.has_addresses else 1)
        self._pool: tuple[int, ThreadPool] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return what a loader process gets: threads stay behind."""
        return {**self.__dict__, "_pool": None}

    def __len__(self) -> int:
        """Return the steps in an epoch; indices may go beyond, into later epochs."""
        return self.steps_per_epoch

    @property
    def batch_bytes(self) -> int:
        """Size of the crops of one step, bytes."""
        samples = 0
        for group, length in zip(self.plan, self.reader.lengths, strict=True):
            samples += group.count * (self.context + length)
        return 4 * self.batch_size * samples

    def __getitem__(self, step: int) -> Batch:
        """Return the crops of one step, for this rank.

        Raises:
            UserError: many utterances in a row cannot be read.
        """
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # the last bit of a sum depends on the threads; a batch must not
        try:
            batch, plans = self._read(step)
            if self.augment is not None:
                self._add_augmentation(batch, plans)
            return batch
        finally:
            torch.set_num_threads(threads)

    def _read(self, step: int) -> tuple[Batch, list[list[np.ndarray]]]:
        """Return the crops of a step, and what to do with each group of each utterance's crops."""
        if self.cache is not None:
            assert isinstance(self.order, SequentialOrder)
            self.cache.want(self.order.wanted(step, self.rank))
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        order = self.order.rows(epoch)
        first = (step_in_epoch * self.world + self.rank) * self.batch_size
        groups = self.reader.empty(self.batch_size)

        def read(place: int) -> _Read:
            crops = [group[:, place].numpy() for group in groups]  # views: the batch is filled
            position = self.rank * self.batch_size + place
            return self._read_place(step, position, int(order[first + place]), crops)

        rows: list[int] = []
        skipped: list[tuple[str, str]] = []
        plans: list[list[np.ndarray]] = []
        for found in self._each(read):
            rows.append(found.row)
            skipped += found.skipped
            plans.append(found.plans)
        return Batch(step, groups, torch.tensor(rows), skipped), plans

    def _each(self, read: Callable[[int], _Read]) -> Iterator[_Read]:
        """Call `read` for each place of a batch, `requests` at a time; results are in order."""
        places = range(self.batch_size)
        if self.requests == 1:
            return map(read, places)
        if self._pool is None or self._pool[0] != os.getpid():  # threads do not survive a fork
            self._pool = (os.getpid(), ThreadPool(self.requests, "crops"))
        return self._pool[1].map(read, places)

    def _read_place(self, step: int, position: int, row: int, crops: Sequence[np.ndarray]) -> _Read:
        """Read the crops of one position of the global batch.

        Args:
            step: of the run.
            position: decides the random stream.
            row: the utterance.
            crops: is filled; see `CropReader.read`.
        """
        rng = random_stream(self.seed, CROP_STREAM, step, position)
        skipped: list[tuple[str, str]] = []
        row = self._read_or_replace(row, rng, crops, skipped)
        self._read_partner(row, rng, crops, skipped)
        return _Read(row, skipped, self._draw_augmentation(rng))

    def _read_or_replace(
        self,
        row: int,
        rng: np.random.Generator,
        crops: Sequence[np.ndarray],
        skipped: list[tuple[str, str]],
    ) -> int:
        """Read the crops of `row`; if it is unreadable, try random substitutes.

        Args:
            row: the utterance.
            rng: of this position in the batch.
            crops: is filled; see `CropReader.read`.
            skipped: each unreadable utterance is added.

        Returns:
            The row that was read.
        """
        reason = ""
        for _ in range(_ATTEMPTS):
            try:
                self.reader.read(row, rng, crops)
                return row
            except (UserError, OSError) as error:
                reason = str(error)
                skipped.append((self.table.id(row), reason))
                row = int(rng.integers(len(self.table)))
        raise UserError(
            f"data: {_ATTEMPTS} utterances in a row cannot be read, the last because: {reason}"
        )

    def _read_partner(
        self,
        row: int,
        rng: np.random.Generator,
        crops: Sequence[np.ndarray],
        skipped: list[tuple[str, str]],
    ) -> None:
        """Put crops of a partner, if `row` takes one, into the first group that the teacher sees.

        If the partner cannot be read, the utterance keeps its own crops. For the arguments see
        `_read_or_replace`.
        """
        if self.positives is None:
            return
        partner = self.positives.partner(row, rng)
        if partner is None:
            return
        theirs = [group[:, 0].numpy() for group in self.reader.empty(1)]
        try:
            self.reader.read(partner, rng, theirs)
        except (UserError, OSError) as error:
            skipped.append((self.table.id(partner), str(error)))
            return
        receivers = [spec.to for spec in self.plan]
        group = next(number for number, to in enumerate(receivers) if to != "student")
        first = 0 if receivers[group] == "teacher" else self.plan[group].count // 2
        crops[group][first:] = theirs[group][first:]

    def _draw_augmentation(self, rng: np.random.Generator) -> list[np.ndarray]:
        """Draw what to do with each crop of an utterance, for each group of the plan."""
        if self.augment is None:
            return []
        plans = []
        for group, length in zip(self.plan, self.reader.lengths, strict=True):
            plans.append(self.augment.draw(rng, group.count, length, group.augment))
        return plans

    def _add_augmentation(self, batch: Batch, plans: Sequence[Sequence[np.ndarray]]) -> None:
        """Augment a batch, or put into it what the device is to do."""
        plan_of_group = []
        for number in range(len(self.plan)):
            plan_of_group.append(np.stack([plan[number] for plan in plans], axis=1))
        if self.augment_here:
            pairs = zip(batch.groups, plan_of_group, strict=True)
            batch.groups = [self._augmented(waves, plan) for waves, plan in pairs]
        else:
            batch.plans = plan_of_group
            batch.context = self.context

    def _augmented(self, waves: Tensor, plan: np.ndarray) -> Tensor:
        """Return (count, B, T) of (count, B, context + T), a few utterances at a time."""
        assert self.augment is not None
        out = torch.empty(*waves.shape[:2], waves.shape[2] - self.context)
        for start in range(0, waves.shape[1], _BLOCK):
            block = slice(start, start + _BLOCK)
            out[:, block] = self.augment.apply(waves[:, block], plan[:, block], self.context)
        return out


def _check_plan(plan: Sequence[CropSpec], far_apart_prob: float, disjoint: bool) -> None:
    """Raise UserError if the options do not fit the crop plan."""
    if not plan:
        raise UserError("crops: the plan is empty; give at least one {count: 2, seconds: 3.0}")
    if not 0.0 <= far_apart_prob <= 1.0 or (far_apart_prob and plan[0].count != 2):
        raise UserError(
            f"data: far_apart_prob={far_apart_prob:g} must be between 0 and 1, and needs two crops"
            " in the first group of the plan"
        )
    if disjoint and {group.to for group in plan} != {"teacher", "student"}:
        raise UserError(
            "data: disjoint needs a crop plan with groups to: teacher and to: student, and none"
            " to: both"
        )


_LONG = 20.0
"""Seconds of a mean utterance from which too few utterances should rather be cut."""

_PIECE = 8.0
"""Seconds of the pieces that are then advised."""


def _check_utterances(utterances: Sequence[Utterance], batch_size: int, world: int) -> None:
    """Raise UserError if a duration is unknown, or there are too few utterances for a batch."""
    for utterance in utterances:
        if not utterance.seconds or not utterance.seconds > 0:
            raise UserError(
                f"data: the duration of {utterance.id} is unknown or zero; write utt2dur, or"
                " remove it"
            )
    if batch_size < 1:
        raise UserError(f"data: batch_size {batch_size} is not positive; raise train.batch_size")
    count = len(utterances)
    if batch_size * world > count:
        ranks = f" x {world} processes" if world > 1 else ""
        reason = f"data: batch_size {batch_size}{ranks} is larger than the {count} utterances"
        mean = sum(utterance.seconds for utterance in utterances) / count if count else 0.0
        if mean >= _LONG:
            pieces = round(count * mean / _PIECE)
            raise UserError(
                f"{reason}, of {mean:.0f} s on average; cut them: speechssl prepare folder ..."
                f" --max-seconds {_PIECE:g} makes about {pieces} of them"
            )
        fitting = 2 ** int(math.log2(max(1, count // world)))
        raise UserError(f"{reason}; lower it (train.batch_size={fitting}), or give more audio")
