"""The linear network in which everything can be computed (Tian et al. 2021; methods/README.md 2.8).

    python egs/theory/linear.py [--out DIR]

x ~ N(0, I), views x + sigma n, a linear encoder W and predictor P, and the loss 1/2 E |P W x1 -
sg(W x2)|^2 with weight decay eta, descended on its exact expectation. With s an eigenvalue of W Wᵀ
and p one of P (whose learning rate is a times the encoder's), theory says

    a s - p^2 decays as exp(-2 eta t), so s = p^2 / a in the end, p = [1 + sqrt(1 - 4 eta (1 +
    sigma^2))] / (2 (1 + sigma^2)), or collapse for eta > 1 / (4 (1 + sigma^2)).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import torch
from _table import Row, main
from torch import Tensor

from speechssl.predictors.directset import DirectSet


def descend(
    w: Tensor,
    p: Tensor,
    *,
    noise: Tensor | float,
    decay: float,
    rate: float = 0.01,
    steps: int = 20000,
    ratio: float = 1.0,
    stop_gradient: bool = True,
    predictor: Callable[[Tensor], Tensor] | None = None,
    momentum: float = 0.0,
    watch: Callable[[int, Tensor, Tensor], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """W and P (D, D, float64) after gradient descent on the expected loss.

    Args:
        noise: sigma^2, one number or one for each input dimension.
        ratio: a, the predictor's learning rate over the encoder's; 0 keeps P as it is.
        stop_gradient: false lets the gradient into the target as well.
        predictor: P as a function of W Wᵀ's correlation F, in place of learning it.
        momentum: of a moving-average target.
    """
    size = w.shape[1]
    variance = torch.as_tensor(noise, dtype=w.dtype).expand(size)
    x11 = torch.diag(1 + variance)  # E[x1 x1ᵀ]; E[x1 x2ᵀ] = I
    w, p, target = w.clone(), p.clone(), w.clone()
    for step in range(steps):
        if predictor is not None:
            p = predictor(w @ x11 @ w.T)
        if momentum == 0.0:
            target = w
        gradient_p = p @ w @ x11 @ w.T - target @ w.T
        gradient_w = p.T @ (p @ w @ x11 - target)
        if not stop_gradient:
            gradient_w = gradient_w + w @ x11 - p @ w
        if watch:
            watch(step, w, p)
        w = w - rate * (gradient_w + decay * w)
        p = p - rate * ratio * gradient_p - rate * decay * p * (ratio > 0)
        if momentum:
            target = momentum * target + (1 - momentum) * w
    return w, p


def mode(s: float, p: float) -> tuple[Tensor, Tensor]:
    """W and P of one dimension with eigenvalues s and p."""
    return torch.tensor([[math.sqrt(s)]]).double(), torch.tensor([[p]]).double()


def fixed_points(decay: float, noise: float) -> tuple[float, float]:
    """p- and p+ (NaN above the threshold)."""
    root = 1 - 4 * decay * (1 + noise)
    if root < 0:
        return math.nan, math.nan
    return tuple((1 + sign * math.sqrt(root)) / (2 * (1 + noise)) for sign in (-1, 1))  # type: ignore[return-value]


def invariant() -> list[Row]:
    """s = p^2 / a for three ratios of learning rates."""
    rows = []
    for ratio in (0.1, 1.0, 10.0):
        w, p = descend(
            *mode(1.0, 1.0), noise=0.25, decay=0.05, ratio=ratio, rate=0.005, steps=60000
        )
        plus = fixed_points(0.05, 0.25)[1]
        rows.append(Row(f"p, predictor lr x {ratio:g}", float(p), plus, 0.002))
        rows.append(
            Row(f"s = p^2 / a, a = {ratio:g}", float(w) ** 2, plus**2 / ratio, 0.005, relative=True)
        )
    return rows


def threshold() -> list[Row]:
    """Weight decay below and above 1 / (4 (1 + sigma^2)) = 0.2, and the basin of attraction."""
    rows = []
    for decay, s in ((0.0, 0.64), (0.19, 0.2396), (0.21, 0.0)):
        start = mode(1.0, 1.0)
        w, _ = descend(*start, noise=0.25, decay=decay, rate=0.02, steps=60000)
        rows.append(Row(f"s, weight decay {decay:g}", float(w) ** 2, s, 2e-3))
    minus, plus = fixed_points(0.1, 0.25)
    for factor, s in ((0.9, 0.0), (1.1, plus**2)):
        p = factor * minus
        w, _ = descend(*mode(p * p, p), noise=0.25, decay=0.1, rate=0.05, steps=40000)
        rows.append(Row(f"s, started at {factor:g} p-", float(w) ** 2, s, 1e-3))
    return rows


def collapse() -> list[Row]:
    """Without predictor, and without stop-gradient."""
    rows = []
    one = torch.eye(1).double()
    for decay in (0.0, 0.05):
        w, _ = descend(one, one, noise=0.25, decay=decay, ratio=0.0, steps=2000)
        want = (1 - 0.01 * (0.25 + decay)) ** 4000
        rows.append(
            Row(f"s without predictor, weight decay {decay:g}", float(w) ** 2, want, 1e-6, True)
        )
    w, _ = descend(one, one, noise=0.25, decay=0.05, rate=0.05, steps=5000, stop_gradient=False)
    rows.append(Row("s without stop-gradient", float(w) ** 2, 0.0, 1e-6))
    for momentum in (0.9, 0.996):
        w, _ = descend(*mode(1.0, 1.0), noise=0.25, decay=0.1, momentum=momentum, steps=40000)
        rows.append(
            Row(
                f"s, moving average {momentum:g}",
                float(w) ** 2,
                fixed_points(0.1, 0.25)[1] ** 2,
                1e-3,
            )
        )
    return rows


def alignment() -> list[Row]:
    """A random start: P becomes symmetric, shares its eigenvectors with F, and is its square
    root.
    """
    torch.manual_seed(0)
    w, p = (torch.randn(6, 6).double() / 6**0.5 for _ in range(2))
    w, p = descend(w, p @ p.T + 0.1 * p, noise=0.25, decay=0.02, rate=0.02, steps=120000)
    f = w @ w.T
    s, u = torch.linalg.eigh(f)
    alive = s > 1e-6
    images = torch.nn.functional.cosine_similarity(u, p @ u, dim=0).abs()[alive]
    root = u @ torch.diag(s.clamp(min=0).sqrt()) @ u.T
    return [
        Row("asymmetry of P", float((p - p.T).norm() / p.norm()), 0.0, 1e-5),
        Row("least |cos(u, P u)| over living modes", float(images.min()), 1.0, 1e-5),
        Row("|P - sqrt F| / |P|", float((p - root).norm() / p.norm()), 0.0, 1e-3),
    ]


def directset() -> list[Row]:
    """Features survive if their noise is below 1 / (4 eta) - 1; epsilon rescues small modes."""
    noise = torch.tensor([0.0, 0.5, 1.0, 1.4, 1.6, 2.0, 4.0]).double()
    power = lambda f: torch.diag((f.diagonal() / (1 + noise)).clamp(min=0).sqrt())  # noqa: E731
    start = torch.eye(7).double()
    w, _ = descend(
        start, start, noise=noise, decay=0.1, ratio=0.0, predictor=power, rate=0.05, steps=40000
    )
    rows = []
    for i, (variance, want) in enumerate(
        zip(noise.tolist(), (0.7873, 0.2961, 0.1309, 0.0625, 0, 0, 0), strict=True)
    ):
        rows.append(Row(f"s, DirectSet(1/2), noise {variance:g}", float(w[i, i]) ** 2, want, 2e-3))
    for epsilon, want in ((0.0, 0.0), (0.05, 0.485), (0.1, 0.418), (0.2, 0.299)):
        lift = lambda f, e=epsilon: (f / 1.25).clamp(min=0).sqrt() + e  # noqa: E731
        w, _ = descend(
            *mode(1e-4, 0.0),
            noise=0.25,
            decay=0.05,
            ratio=0.0,
            predictor=lift,
            rate=0.05,
            steps=40000,
        )
        rows.append(Row(f"s from 1e-4, epsilon {epsilon:g}", float(w) ** 2, want, 2e-3))
    part = DirectSet(2, epsilon=0.3, alpha=1.0)
    part.correlation.value.copy_(torch.diag(torch.tensor([4.0, 1.0])))
    rows.append(
        Row("DirectCopy's gain on the weaker of (4, 1)", float(part.weights()[1, 1]), 0.55, 1e-6)
    )
    return rows


def plot(folder: Path) -> None:
    """s and p over time, below and above the threshold."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4))
    for decay in (0.1, 0.19, 0.21, 0.3):
        curve: list[float] = []
        keep = lambda step, w, p, c=curve: c.append(float(w) ** 2)  # noqa: E731
        descend(*mode(1.0, 1.0), noise=0.25, decay=decay, rate=0.02, steps=5000, watch=keep)
        axes.plot([0.02 * i for i in range(len(curve))], curve, label=f"weight decay {decay:g}")
    axes.set(
        xlabel="time (learning rate x steps)",
        ylabel="s = eigenvalue of W Wᵀ",
        yscale="log",
        ylim=(1e-6, 2),
    )
    axes.set_title("collapse above weight decay 0.2 = 1 / (4 (1 + 0.25))")
    axes.legend()
    figure.tight_layout()
    figure.savefig(folder / "linear.png", dpi=120)


EXPERIMENTS = [invariant, threshold, collapse, alignment, directset]

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    main(parser, EXPERIMENTS, plot)
