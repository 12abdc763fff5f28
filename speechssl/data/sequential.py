"""Shards read one behind the other, as webdataset does, by a rule that any step can be asked for.

An epoch puts the shards into random order and their utterances behind each other as they lie in
them. Each process gets its part of this sequence, so no utterance is read twice, wherever nodes and
processes are; a shard that two parts share is fetched by both. Within a part the utterances are
mixed as by a shuffle buffer: utterance i has the place of i + u x buffer, u uniform in 0..1, so none
is read more than a buffer before its turn. All of that is a function of seed and epoch: batch s needs
no batch before it, and a resumed run has the bits of an unbroken one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from speechssl.audio import members
from speechssl.data.epochs import ORDER_STREAM, random_stream
from speechssl.data.manifest import Utterance
from speechssl.errors import UserError

AHEAD_STEPS = 32
"""Steps before the need of a shard at which it is fetched, at least."""


class Reading(NamedTuple):
    """How a run reads its shards, where it reads them in sequence.

    Attributes:
        buffer: utterances of the shuffle buffer.
        cache: folder for copies of shards behind addresses; None: the user's cache folder.
        cache_gb: GB that they may take.
    """

    buffer: int = 10_000
    cache: str | None = None
    cache_gb: float = 50.0


class Shards(NamedTuple):
    """Where utterances lie.

    Attributes:
        archives: path or address of each shard.
        shard: (N,) number of the shard of each utterance.
        offset: (N,) byte at which it begins there.
    """

    archives: list[str]
    shard: NDArray[np.int64]
    offset: NDArray[np.int64]


def find_shards(utterances: Sequence[Utterance]) -> Shards:
    """Return the shards of utterances.

    Raises:
        UserError: an utterance is not in a shard.
    """
    number_of: dict[str, int] = {}
    archives: list[str] = []
    shard = np.empty(len(utterances), np.int64)
    offset = np.empty(len(utterances), np.int64)
    for row, utterance in enumerate(utterances):
        member = members.parse(utterance.path)
        if member is None:
            raise UserError(
                f"data.reading=stream: {utterance.id} is not in a shard; give directories of"
                " `speechssl shard`, or read at random"
            )
        if member.archive not in number_of:
            number_of[member.archive] = len(archives)
            archives.append(member.archive)
        shard[row] = number_of[member.archive]
        offset[row] = member.offset
    return Shards(archives, shard, offset)


class SequentialOrder:
    """The rows that each epoch visits; batch s of rank r stands where `CropBatches` looks for it.

    Args:
        shards: where the utterances lie.
        batch_size: utterances of a step, on one rank.
        world: number of processes.
        seed: of the run.
        buffer: utterances of the shuffle buffer.

    Raises:
        UserError: the buffer has no room.
    """

    def __init__(
        self, shards: Shards, *, batch_size: int, world: int, seed: int, buffer: int
    ) -> None:
        if buffer < 1:
            raise UserError(f"data.shuffle_buffer={buffer}: give at least 1")
        self.shards = shards
        self.batch_size = batch_size
        self.world = world
        self.seed = seed
        self.buffer = buffer
        self.steps = len(shards.shard) // (batch_size * world)
        self._drawn: dict[int, NDArray[np.int64]] = {}

    def rows(self, epoch: int) -> NDArray[np.int64]:
        """Return the rows that an epoch visits, (steps x world x batch_size,), in order.

        Those of two epochs are kept: shards are fetched beyond the end of one.
        """
        if epoch not in self._drawn:
            for other in list(self._drawn):
                if abs(other - epoch) > 1 or len(self._drawn) > 1:
                    del self._drawn[other]
            self._drawn[epoch] = self._draw(epoch)
        return self._drawn[epoch]

    def _draw(self, epoch: int) -> NDArray[np.int64]:
        rng = random_stream(self.seed, ORDER_STREAM, epoch)
        shards = self.shards
        turn = rng.permutation(len(shards.archives))
        sequence = np.lexsort((shards.offset, turn[shards.shard]))
        length = self.steps * self.batch_size
        parts = []
        for rank in range(self.world):
            part = sequence[rank * length : (rank + 1) * length]
            keys = np.arange(length) + self.buffer * rng.random(length)
            parts.append(part[np.argsort(keys, kind="stable")])
        by_rank = np.stack(parts).reshape(self.world, self.steps, self.batch_size)
        return by_rank.transpose(1, 0, 2).reshape(-1)

    def wanted(self, step: int, rank: int) -> list[str]:
        """Return the shards that a rank needs from a step on, in the order of their need.

        They are those of `AHEAD_STEPS` steps, or of the shuffle buffer if it is longer, and reach
        into the next epoch.

        Args:
            step: of the run.
            rank: which process.
        """
        epoch, step_in_epoch = divmod(step, self.steps)
        ahead = max(AHEAD_STEPS, -(-self.buffer // self.batch_size))
        found: dict[int, None] = {}
        for number in (epoch, epoch + 1):
            first = step_in_epoch if number == epoch else 0
            last = min(self.steps, first + ahead)
            ahead -= last - first
            if last > first:
                by_step = self.rows(number).reshape(self.steps, self.world, self.batch_size)
                rows = by_step[first:last, rank].ravel()
                found |= dict.fromkeys(self.shards.shard[rows].tolist())
        return [self.shards.archives[shard] for shard in found]
