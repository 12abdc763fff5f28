"""Participation ratio of the covariance's eigenvalues (methods/README.md 9)."""

from __future__ import annotations

from torch import Tensor

from speechssl.diagnostics.ranks import directions
from speechssl.interfaces import Diagnostic


def participation_ratio(embeddings: Tensor) -> float:
    """(sum lambda)^2 / sum lambda^2 of the covariance of (N, D): D when even, 1 for one
    direction.
    """
    x = embeddings.float()
    x = x - x.mean(0)
    if x.norm() <= 1e-5 * embeddings.float().norm():
        return 1.0
    small = x.T @ x if x.shape[1] <= x.shape[0] else x @ x.T
    small = small.double()
    return float(small.diagonal().sum() ** 2 / small.square().sum())


PART = Diagnostic(
    participation_ratio,
    healthy=lambda n, d: (0.08 * directions(n, d), float(d)),
    collapsed=lambda value, n, d: value < 0.02 * directions(n, d) or value < 1.5,
    tells="directions that hold the variance, weighted towards the strong ones",
    better="higher",
)
