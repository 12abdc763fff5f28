"""Batches of random crops for fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechssl.audio import reading
from speechssl.data.manifest import Utterance


class Crop(NamedTuple):
    """A span of an audio file, in seconds; ``stop`` None: to its end; ``channel`` None: their mean."""

    path: str
    start: float
    stop: float | None
    channel: int | None = None


def random_crop(utterance: Utterance, seconds: float, rng: np.random.Generator) -> Crop:
    """Draw a crop of ``seconds`` from an utterance; a shorter utterance is taken whole."""
    position = float(rng.random())
    spare = utterance.seconds - seconds
    if spare <= 0:
        return Crop(utterance.path, utterance.start, utterance.stop, utterance.channel)
    start = utterance.start + position * spare
    return Crop(utterance.path, start, start + seconds, utterance.channel)


def read_crops(
    crops: Sequence[Crop], sample_rate: int, executor: Executor
) -> tuple[Tensor, Tensor]:
    """Read crops as a batch.

    Args:
        crops: B of them.
        sample_rate: Hz.
        executor: reads several at once.

    Returns:
        Waves (B, T), padded with zeros, and lengths (B,) in samples.
    """

    def read(crop: Crop) -> NDArray[np.float32]:
        return reading.read(crop.path, sample_rate, crop.start, crop.stop, crop.channel)

    samples = list(executor.map(read, crops))
    lengths = [len(one) for one in samples]
    waves = torch.zeros(len(samples), max(lengths))
    for row, one in zip(waves, samples, strict=True):
        row[: len(one)] = torch.from_numpy(one)
    return waves, torch.tensor(lengths)


def epoch_batches(
    rows: NDArray[Any], batch_size: int, steps: int, rng: np.random.Generator
) -> Iterator[NDArray[Any]]:
    """Yield ``steps`` batches of rows; every row comes once before any comes twice.

    Args:
        rows: (N,) what to draw from.
        batch_size: rows in a batch; the last batch of an epoch may be smaller.
        steps: number of batches.
        rng: gives the order of each epoch.
    """
    while steps > 0:
        order = rng.permutation(rows)
        for start in range(0, len(order), batch_size):
            if steps == 0:
                return
            yield order[start : start + batch_size]
            steps -= 1
