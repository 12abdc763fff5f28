"""Generalised average confusion: distances to utterances in place of crops.

Wang et al. 2022; methods/README.md 10.

The distance of a first view to its own utterance is the ``own`` statistic (mean, min or max) of the
distances to its other views; to another utterance, the ``others`` statistic over its views. The
released program is hard-wired to batches of 256; this takes any N.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from speechssl.diagnostics.acr import unit_views
from speechssl.interfaces import Diagnostic

Statistic = Literal["mean", "min", "max"]


def generalised_acr(views: Tensor, own: Statistic = "mean", others: Statistic = "mean") -> float:
    """Return the share of first views that are nearer to another utterance than to their own.

    Args:
        views: (V, N, D).
        own: statistic of the distances to the own utterance's other views.
        others: statistic of the distances to another utterance's views.

    Returns:
        0 to 1; NaN where all embeddings are equal, or V < 2.
    """
    z = unit_views(views)
    if z is None:
        return float("nan")
    distance = 1 - torch.einsum("nd,vmd->vnm", z[0], z)
    mine = _reduce(distance[1:].diagonal(dim1=1, dim2=2), own)
    theirs = _reduce(distance, others)
    theirs.fill_diagonal_(torch.inf)
    return float((theirs.min(1).values < mine).double().mean())


def _reduce(x: Tensor, statistic: Statistic) -> Tensor:
    if statistic == "mean":
        return x.mean(0)
    if statistic == "min":
        return x.min(0).values
    return x.max(0).values


PART = Diagnostic(
    generalised_acr,
    healthy=lambda n, d: (0.0, 0.6),
    collapsed=lambda value, n, d: value > 0.99 and n > 100,
    tells="crops that are nearer to another utterance than to their own, over all its crops",
    better="lower",
    needs="views",
)
