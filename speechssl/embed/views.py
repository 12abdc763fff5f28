"""Embeddings of several crops of each utterance: what diagnostics of collapse and confusion look
at.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from speechssl.data.manifest import Utterance
from speechssl.embed.batches import Failure, durations
from speechssl.embed.embedder import Embedder
from speechssl.errors import UserError


def plan_views(
    utterances: Sequence[Utterance],
    count: int,
    views: int,
    seconds: float,
    seed: int,
    readers: int = 2,
) -> list[list[Utterance]]:
    """``views`` random crops of ``seconds`` of each of at most ``count`` random utterances.

    An utterance shorter than ``seconds`` gives crops of half its length. The same seed gives the
    same crops.
    """
    rng = np.random.default_rng(seed)
    chosen = [utterances[i] for i in sorted(rng.permutation(len(utterances))[:count])]
    plan = []
    for utterance, length in zip(chosen, durations(chosen, readers), strict=True):
        if isinstance(length, Failure):
            continue
        size = seconds if length > seconds else length / 2
        starts = utterance.start + rng.random(views) * (length - size)
        plan.append(
            [Utterance(utterance.id, utterance.path, s, s + size, size) for s in starts.tolist()]
        )
    return plan


def embed_views(embedder: Embedder, plan: Sequence[Sequence[Utterance]]) -> NDArray[np.float32]:
    """(V, N, D) of the crops of a plan; utterances of which a crop cannot be read or is silent are
    left out.

    Raises:
        UserError: fewer than 3 utterances are left.
    """
    flat = [crop for crops in plan for crop in crops]
    views = len(plan[0]) if plan else 0
    out = np.full((len(flat), embedder.dim), np.nan, np.float32)
    for index, _, result in embedder.stream(flat):
        if not isinstance(result, Failure):
            out[index] = result
    found = out.reshape(len(plan), views, embedder.dim)
    whole = np.isfinite(found).all((1, 2)) & (found != 0).any(2).all(1)
    if whole.sum() < 3:
        raise UserError(
            f"diagnose: crops of {int(whole.sum())} utterances could be embedded; 3 are needed"
        )
    return found[whole].transpose(1, 0, 2)
