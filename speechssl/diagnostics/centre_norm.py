"""Norm of the centre of normalised embeddings (Jha et al. 2024; methods/README.md 4.3)."""

from __future__ import annotations

from torch import Tensor

from speechssl.diagnostics.directions import directions
from speechssl.interfaces import Diagnostic


def centre_norm(embeddings: Tensor) -> float:
    """Return || mean of x / ||x|| || over (N, D).

    It is about 1 / sqrt(N) when spread evenly, 1 when collapsed.
    """
    return float(directions(embeddings.float()).mean(0).norm())


PART = Diagnostic(
    centre_norm,
    healthy=lambda n, d: (0.0, 0.7),
    collapsed=lambda value, n, d: value > 0.95,
    tells="length of the mean direction; 1 = all point one way",
    better="lower",
)
