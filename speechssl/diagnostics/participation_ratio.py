"""Participation ratio of the covariance's eigenvalues (methods/README.md 9)."""

from __future__ import annotations

from torch import Tensor

from speechssl.diagnostics.ranks import max_rank
from speechssl.interfaces import Diagnostic


def participation_ratio(embeddings: Tensor) -> float:
    """Return (sum lambda)^2 / sum lambda^2 of the covariance of (N, D): D when even, 1 for one line."""
    x = embeddings.float()
    x = x - x.mean(0)
    if x.norm() <= 1e-5 * embeddings.float().norm():
        return 1.0
    count, dim = x.shape
    # X'X and XX' have the same eigenvalues above 0: take the smaller.
    gram = (x.T @ x if dim <= count else x @ x.T).double()
    return float(gram.diagonal().sum() ** 2 / gram.square().sum())


PART = Diagnostic(
    participation_ratio,
    healthy=lambda n, d: (0.08 * max_rank(n, d), float(d)),
    collapsed=lambda value, n, d: value < 0.02 * max_rank(n, d) or value < 1.5,
    tells="directions that hold the variance, weighted towards the strong ones",
    better="higher",
)
