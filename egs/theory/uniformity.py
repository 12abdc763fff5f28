"""Which predictors drive the mean of the embeddings away, and which to collapse.

    python egs/theory/uniformity.py

methods/README.md 4.2 to 4.4. U = |E n(z)|^2 and its rate per step in feature space, on
points around a common direction: z = n(kappa mu + x), views n(z + noise y) with x, y
standard normal over sqrt(D). Without predictor the rate is close to 2 (1 - c) U, c the
mean cosine of two views: every mean grows. A spectral predictor aligned with F turns it
around when the mean dominates; its inverse makes it worse than none. The definitions
are working ones, inspired by Wang Y. et al. 2022.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from _table import Row, main
from torch import Tensor

from speechssl.diagnostics.centre_norm import centre_norm
from speechssl.diagnostics.residual_energy import residual_energy
from speechssl.diagnostics.spectrum_auc import spectrum_auc
from speechssl.diagnostics.uniformity_indicator import uniformity_indicator, uniformity_rate

DIM = 16
COUNT = 20000


def cone(kappa: float, noise: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return two views (N, D) of points of unit length around the first axis.

    Args:
        kappa: length of the common direction; the larger, the narrower the cone.
        noise: of the views.
        seed: of the draws.
    """
    g = torch.Generator().manual_seed(seed)
    axis = torch.zeros(DIM)
    axis[0] = kappa
    points = F.normalize(axis + torch.randn(COUNT, DIM, generator=g), dim=-1)
    first_noise = noise * torch.randn(COUNT, DIM, generator=g) / DIM**0.5
    second_noise = noise * torch.randn(COUNT, DIM, generator=g) / DIM**0.5
    return F.normalize(points + first_noise, dim=-1), F.normalize(points + second_noise, dim=-1)


def rate(kappa: float, noise: float, power: float | None) -> float:
    """Return the rate of U under -cos(W z1, z2), symmetrised, with W = F^power.

    Args:
        kappa, noise: of ``cone``.
        power: of F; none: no predictor.
    """
    one, two = cone(kappa, noise)
    weight = torch.eye(DIM)
    if power is not None:
        correlation = (one.T @ one + two.T @ two) / (2 * COUNT)
        s, u = torch.linalg.eigh(correlation)
        weight = u @ torch.diag(s.clamp(min=1e-8).pow(power)) @ u.T

    def first_loss(z: Tensor) -> Tensor:
        return -F.cosine_similarity(z @ weight, two, dim=-1).mean()

    def second_loss(z: Tensor) -> Tensor:
        return -F.cosine_similarity(z @ weight, one, dim=-1).mean()

    return (uniformity_rate(one, first_loss) + uniformity_rate(two, second_loss)) / 2


def dynamics() -> list[Row]:
    """Rate of U at a strong mean (kappa 3, noise 0.5)."""
    one, two = cone(3.0, 0.5)
    u = (uniformity_indicator(one) + uniformity_indicator(two)) / 2
    c = float(F.cosine_similarity(one, two, dim=-1).mean())
    none = rate(3.0, 0.5, None)
    inverse = rate(3.0, 0.5, -0.5)
    return [
        Row("U", u, 0.31, 0.05),
        Row("rate without predictor", none, low=0.0),
        Row("rate without predictor over 2 (1 - c) U", none / (2 * (1 - c) * u), 1.0, 0.15),
        Row("rate, DirectSet(1/2)", rate(3.0, 0.5, 0.5), high=0.0),
        Row("rate, DirectSet(1)", rate(3.0, 0.5, 1.0), high=0.0),
        Row("rate, inverse spectrum, over none", inverse / none, low=1.0),
    ]


def weak_mean() -> list[Row]:
    """At a weak mean and strong noise (kappa 1, noise 1) the predictor only slows the drift."""
    none = rate(1.0, 1.0, None)
    half = rate(1.0, 1.0, 0.5)
    return [Row("rate, DirectSet(1/2), over none", half / none, low=0.5, high=1.0)]


def limits() -> list[Row]:
    """Closed forms: an even spread, collapse, and the identity of energies."""
    g = torch.Generator().manual_seed(0)
    even = torch.randn(4096, 64, generator=g)
    collapsed = torch.ones(8, 4)
    four_axes = torch.cat([torch.eye(4), -torch.eye(4)])
    one_direction = even[:, :1] * torch.ones(1, 5)
    views = torch.randn(4, 256, 16, generator=g) + torch.randn(1, 256, 16, generator=g)
    means = F.normalize(views, dim=-1).mean(0)
    energy = means.square().sum(-1).mean() - means.mean(0).square().sum()
    difference = residual_energy(views) - float(energy)
    return [
        Row("centre norm of an even spread, N 4096", centre_norm(even), 0.0156, 0.004),
        Row("centre norm, collapsed", centre_norm(collapsed), 1.0, 1e-6),
        Row("residual energy - (E|s_x|^2 - |s|^2)", difference, 0.0, 1e-6),
        Row("cumulative spectrum AUC, flat, d = 4", spectrum_auc(four_axes), 0.625, 1e-5),
        Row("cumulative spectrum AUC, one direction", spectrum_auc(one_direction), 1.0, 1e-4),
    ]


EXPERIMENTS = [dynamics, weak_mean, limits]

if __name__ == "__main__":
    main(
        argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter),
        EXPERIMENTS,
    )
