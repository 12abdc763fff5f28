"""Orders of the data in which early epochs know only a part of it (Li, Efros and Pathak 2022, ECCV).

SimSiam loses dimensions when the encoder is small for its data. Their remedy is to show
the data as a stream: one fixed random order of all utterances is cut into pieces, and
each epoch, of as many steps as ever, goes through

* ``single_pass``: one piece an epoch, which is not used again afterwards;
* ``accumulate``: this piece and all before it;
* ``hybrid``: as ``single_pass`` for a share of the run, then all the data.

There are as many pieces as epochs, but no piece is smaller than a batch: then several
epochs in a row have the same one. An utterance is never twice in a batch. These are the
strategies ``current`` and ``accumulate`` of the released program, and its continuation
of a single-pass checkpoint with all the data (methods/README.md 4.4).
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from speechssl.data.epochs import ORDER_STREAM, random_stream
from speechssl.errors import UserError

Kind = Literal["shuffled", "single_pass", "accumulate", "hybrid"]

STREAM_STREAM = 3
"""Kind of the random stream of the fixed order; the others are in `epochs.py`."""


class DataOrder(NamedTuple):
    """How a run goes through its data.

    Attributes:
        kind: see above; ``shuffled``: every epoch has all utterances.
        passes: batches of the whole run.
        single_pass_share: of the run, of ``hybrid``.
    """

    kind: Kind
    passes: int
    single_pass_share: float = 0.4


class StreamOrder:
    """The rows that each epoch visits, a function of the seed and the epoch.

    Args:
        count: N utterances.
        batch: utterances of a batch, over all processes; at most N.
        seed: of the run.
        order: how the run goes through its data; not ``shuffled``.

    Raises:
        UserError: the share of ``hybrid`` is not between 0 and 1.
    """

    def __init__(self, count: int, batch: int, seed: int, order: DataOrder) -> None:
        if not 0.0 < order.single_pass_share < 1.0:
            raise UserError(
                f"data.single_pass_share: {order.single_pass_share:g}; it must be between 0 and 1,"
                " and neither of them"
            )
        self.batch = batch
        self.seed = seed
        self.order = order
        self.steps = count // batch
        self.epochs = max(1, math.ceil(order.passes / self.steps))
        self.pieces = min(self.epochs, self.steps)
        self.stream = random_stream(seed, STREAM_STREAM).permutation(count)
        self._last: tuple[int, NDArray[np.int64]] | None = None

    def rows(self, epoch: int) -> NDArray[np.int64]:
        """Return the rows that an epoch visits, a whole number of batches, in order."""
        if self._last is None or self._last[0] != epoch:
            self._last = (epoch, self._draw(epoch))
        return self._last[1]

    def known(self, epoch: int) -> NDArray[np.int64]:
        """Return the rows among which an epoch draws."""
        count = len(self.stream)
        epoch = min(epoch, self.epochs - 1)
        piece = epoch * self.pieces // self.epochs
        first = count * piece // self.pieces
        end = count * (piece + 1) // self.pieces
        if self.order.kind == "accumulate":
            return self.stream[:end]
        is_over = epoch >= self.order.single_pass_share * self.epochs
        if self.order.kind == "hybrid" and is_over:
            return self.stream
        return self.stream[first:end]

    def _draw(self, epoch: int) -> NDArray[np.int64]:
        rng = random_stream(self.seed, ORDER_STREAM, epoch)
        known = self.known(epoch)
        whole_batches = len(known) - len(known) % self.batch
        rounds = []
        for _ in range(math.ceil(self.steps * self.batch / whole_batches)):
            rounds.append(rng.permutation(known)[:whole_batches])
        return np.concatenate(rounds)[: self.steps * self.batch]
