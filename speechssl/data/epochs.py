"""The order in which the epochs of a training run visit the utterances."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from speechssl.audio import members
from speechssl.data.manifest import Utterance
from speechssl.errors import UserError

ORDER_STREAM = 1
CROP_STREAM = 2
"""Kinds of random streams."""


def random_stream(seed: int, kind: int, *key: int) -> np.random.Generator:
    """Return the random stream of a kind and a key, such as a step and a position."""
    return np.random.default_rng(np.random.SeedSequence([seed, kind, *key]))


def visit_weights(
    seconds: np.ndarray,
    source: np.ndarray,
    *,
    weight_by_duration: bool = False,
    source_shares: Sequence[float] = (),
    source_temperature: float = 1.0,
) -> np.ndarray | None:
    """Return how often an epoch visits each utterance, relative to the others.

    A source of size n (its utterances, or its seconds with `weight_by_duration`) gets visits in
    proportion to n ** (1 / temperature): all sources alike as the temperature grows, by their size
    at 1 (the temperature of multilingual models, Arivazhagan et al. 2019, section 3).

    Args:
        seconds: (N,) durations.
        source: (N,) number of the source of each utterance, from 0.
        weight_by_duration: weight the utterances of a source by their duration.
        source_shares: share of the visits of each source, in place of the temperature; need not
            sum to 1.
        source_temperature: see above.

    Returns:
        (N,), or None if all are visited once.
    """
    if not weight_by_duration and not len(source_shares) and source_temperature == 1.0:
        return None
    weights: np.ndarray = np.ones(len(seconds))
    if weight_by_duration:
        weights = np.asarray(seconds, dtype=np.float64)
    size: np.ndarray = np.bincount(source, weights)
    wanted: np.ndarray = size ** (1.0 / source_temperature)
    if len(source_shares):
        wanted = np.asarray(source_shares, dtype=np.float64)[: len(size)]
    share = wanted / np.where(size > 0, size, 1.0)
    visits: np.ndarray = weights * share[source]
    return visits


class EpochOrder:
    """A random order of N utterances for each epoch, a function of the seed and the epoch.

    Args:
        count: N.
        seed: of the run.
        weights: (N,) of `visit_weights`: how often an utterance is visited, relative to the others
            (systematic sampling: as many visits as utterances); None: once each.
        replacement: draw each visit anew, all utterances equally likely (or in proportion to their
            weights): an epoch has as many visits as utterances, but leaves some out (a share of 1/e)
            and meets others more than once, as hyperion's sampler does.
        shard: (N,) the number of each utterance's shard, or None.
        shards_at_once: with `shard`: how many shards are mixed at a time. The epoch goes through
            the shards in random order, so many together, and their utterances in random order.
    """

    def __init__(
        self,
        count: int,
        seed: int,
        *,
        weights: np.ndarray | None = None,
        replacement: bool = False,
        shard: np.ndarray | None = None,
        shards_at_once: int = 1,
    ) -> None:
        self.count = count
        self.seed = seed
        self.weights = weights
        self.replacement = replacement
        self.shard = shard
        self.shards_at_once = shards_at_once
        self._last: tuple[int, np.ndarray] | None = None

    def rows(self, epoch: int) -> np.ndarray:
        """Return the rows (N,) int64 that an epoch visits, in order; the last epoch's are kept."""
        if self._last is None or self._last[0] != epoch:
            self._last = (epoch, self._draw(random_stream(self.seed, ORDER_STREAM, epoch)))
        return self._last[1]

    def _draw(self, rng: np.random.Generator) -> np.ndarray:
        rows = np.arange(self.count)
        if self.weights is not None:
            share = np.cumsum(self.weights) / self.weights.sum()
            points = (np.arange(self.count) + rng.random()) / self.count
            if self.replacement:
                points = rng.random(self.count)
            rows = np.searchsorted(share, points).clip(max=self.count - 1)
        elif self.replacement:
            rows = rng.integers(self.count, size=self.count)
        rows = rng.permutation(rows)
        if self.shard is None:
            return rows
        turn_of_shard = rng.permutation(self.shard.max() + 1) // self.shards_at_once
        turn = turn_of_shard[self.shard[rows]]
        return rows[np.argsort(turn, kind="stable")]


def shard_numbers(utterances: Sequence[Utterance], shards_at_once: int) -> np.ndarray:
    """Return the number (N,) int64 of each utterance's shard.

    Raises:
        UserError: an utterance is not in a shard, or `shards_at_once` is not positive.
    """
    archives: list[str] = []
    for utterance in utterances:
        member = members.parse(str(utterance.path))
        if member is not None:
            archives.append(member.archive)
    if shards_at_once < 1 or len(archives) < len(utterances):
        raise UserError(
            f"data.shards_at_once={shards_at_once}: is a number of shards, at least 1, and needs"
            " data.train to be directories of `speechssl shard`; leave it out for files"
        )
    _, numbers = np.unique(archives, return_inverse=True)
    return numbers.astype(np.int64)
