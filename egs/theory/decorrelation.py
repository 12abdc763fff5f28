"""Prediction without stop-gradient in the linear network, with decorrelation (methods/README.md 4.6).

    python egs/theory/decorrelation.py

L = 1/2 E |P z1 - z2|^2 + mu |Cov(z) - I|_F^2, z = W (x + sigma n), gradient to both
sides, descended on the exact expectation. With the predictor at its best, 1 / (1 +
sigma^2), an eigenvalue of Cov ends at max(0, 1 - (1 - 1 / (1 + sigma^2)^2) / (4 mu)).
"""

from __future__ import annotations

import argparse

import torch
from _table import Row, main
from torch import Tensor

from speechssl.methods.sgfree_decorr import decorrelation


def descend(
    mu: float, noise: float = 0.25, size: int = 3, rate: float = 0.1, steps: int = 4000
) -> tuple[Tensor, Tensor]:
    """Return the eigenvalues of Cov(z) and of P after gradient descent.

    Args:
        mu: weight of the decorrelation.
        noise: sigma^2.
        size: D.
        rate: learning rate.
        steps: of gradient descent.
    """
    torch.manual_seed(0)
    w = (torch.eye(size) + 0.1 * torch.randn(size, size)).double()
    p = torch.eye(size).double()
    identity = torch.eye(size).double()
    for _ in range(steps):
        cross = w @ w.T  # C12
        covariance = (1 + noise) * w @ w.T  # C11 = C22
        # E|P z1 - z2|^2 = tr(P C11 Pᵀ) - 2 tr(P C12) + tr(C22)
        gradient_p = p @ covariance - cross
        inner = (1 + noise) * (p.T @ p + identity) - (p + p.T)
        gradient_w = inner @ w + mu * 4 * (covariance - identity) @ w * (1 + noise)
        w = w - rate * gradient_w
        p = p - rate * gradient_p
    return torch.linalg.eigvalsh((1 + noise) * w @ w.T), torch.linalg.eigvals(p).real


def eigenvalues() -> list[Row]:
    """Eigenvalues of Cov(z) for three weights."""
    rows = []
    for mu, predicted in ((0.0, 0.0), (0.1, 0.100), (1.0, 0.910)):
        covariance, predictor = descend(mu)
        least = float(covariance.min())
        largest = float(covariance.max())
        rows.append(Row(f"least eigenvalue, mu {mu:g}", least, predicted, 1e-3))
        rows.append(Row(f"largest eigenvalue, mu {mu:g}", largest, predicted, 1e-3))
        if mu:
            rows.append(Row(f"predictor, mu {mu:g}", float(predictor.mean()), 0.8, 1e-3))
    return rows


def term() -> list[Row]:
    """The package's term on whitened and on constant features."""
    g = torch.Generator().manual_seed(0)
    z, _ = torch.linalg.qr(torch.randn(64, 4, generator=g))
    z = z - z.mean(0)
    z, _ = torch.linalg.qr(z)
    whitened = float(decorrelation(z * 63**0.5))
    constant = float(decorrelation(torch.ones(8, 4)))
    return [
        Row("|Cov - I|^2, whitened", whitened, 0.0, 1e-3),
        Row("|Cov - I|^2, constant, D = 4", constant, 4.0, 1e-6),
    ]


EXPERIMENTS = [eigenvalues, term]

if __name__ == "__main__":
    main(
        argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter),
        EXPERIMENTS,
    )
