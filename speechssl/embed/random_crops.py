"""Embeddings of several crops of each utterance, for the diagnostics of collapse and confusion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from speechssl.data.manifest import Utterance
from speechssl.embed.batches import Failure, durations
from speechssl.embed.embedder import Embedder
from speechssl.errors import UserError


def plan_crops(
    utterances: Sequence[Utterance],
    count: int,
    views: int,
    seconds: float,
    seed: int,
    readers: int = 2,
) -> list[list[Utterance]]:
    """Draw random crops of random utterances; the same seed draws the same ones.

    Args:
        utterances: to choose from.
        count: N, how many of them at most.
        views: V, crops of each.
        seconds: length of a crop; an utterance that is not longer gives crops of half
            its length.
        seed: of the draws.
        readers: threads that read headers.

    Returns:
        N lists of V crops. Utterances whose header cannot be read are left out.
    """
    rng = np.random.default_rng(seed)
    chosen = [utterances[i] for i in sorted(rng.permutation(len(utterances))[:count])]
    plan = []
    for utterance, length in zip(chosen, durations(chosen, readers), strict=True):
        if isinstance(length, Failure):
            continue
        crop_seconds = seconds if length > seconds else length / 2
        starts = utterance.start + rng.random(views) * (length - crop_seconds)
        crops = []
        for start in starts.tolist():
            stop = start + crop_seconds
            crops.append(replace(utterance, start=start, stop=stop, seconds=crop_seconds))
        plan.append(crops)
    return plan


def embed_crops(embedder: Embedder, plan: Sequence[Sequence[Utterance]]) -> NDArray[np.float32]:
    """Return embeddings (V, N, D) of the crops of a plan.

    Utterances of which a crop cannot be read or is silent are left out.

    Raises:
        UserError: fewer than 3 utterances are left.
    """
    crops: list[Utterance] = []
    for crops_of_one in plan:
        crops += crops_of_one
    views = len(plan[0]) if plan else 0
    vectors = np.full((len(crops), embedder.dim), np.nan, np.float32)
    for index, _seconds, result in embedder.stream(crops):
        if not isinstance(result, Failure):
            vectors[index] = result
    by_utterance = vectors.reshape(len(plan), views, embedder.dim)
    is_finite = np.isfinite(by_utterance).all((1, 2))
    is_not_zero = (by_utterance != 0).any(2).all(1)
    complete = is_finite & is_not_zero
    if complete.sum() < 3:
        raise UserError(
            f"diagnose: crops of {int(complete.sum())} utterances could be embedded; 3 are needed"
        )
    by_view: NDArray[np.float32] = by_utterance[complete].transpose(1, 0, 2)
    return by_view
