"""The linear network in which everything can be computed (Tian et al. 2021; methods/README.md 2.8).

    python egs/theory/linear.py [--out DIR]

x ~ N(0, I), views x + sigma n, a linear encoder W and predictor P, and the loss 1/2 E
|P W x1 - sg(W x2)|^2 with weight decay eta, descended on its exact expectation. With s
an eigenvalue of W Wᵀ and p one of P (whose learning rate is a times the encoder's),
theory says

    a s - p^2 decays as exp(-2 eta t), so s = p^2 / a in the end,
    p = [1 + sqrt(1 - 4 eta (1 + sigma^2))] / (2 (1 + sigma^2)),
    or collapse for eta > 1 / (4 (1 + sigma^2)).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
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
    """Return W and P (D, D, float64) after gradient descent on the expected loss.

    Args:
        w: W at the start.
        p: P at the start.
        noise: sigma^2, one number or one for each input dimension.
        decay: eta, the weight decay.
        rate: the encoder's learning rate.
        steps: of gradient descent, fewer where it arrives at a fixed point before.
        ratio: a, the predictor's learning rate over the encoder's; 0 keeps P as it is.
        stop_gradient: false lets the gradient into the target as well.
        predictor: P as a function of the correlation F of W x1, in place of learning
            it.
        momentum: of a moving-average target.
        watch: called before each update, with its number, W and P.
    """
    size = w.shape[1]
    variance = torch.as_tensor(noise, dtype=w.dtype).expand(size)
    x11 = torch.diag(1 + variance)  # E[x1 x1ᵀ]; E[x1 x2ᵀ] = I
    w = w.clone()
    p = p.clone()
    target = w.clone()
    earlier = w
    for step in range(steps):
        if step % 500 == 499 and watch is None:
            if (w - earlier).abs().max() < 1e-13:
                break  # a fixed point: hundreds of steps more would change nothing
            earlier = w
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
    """Return W and P (1, 1) of one dimension with eigenvalues s and p."""
    return torch.tensor([[math.sqrt(s)]]).double(), torch.tensor([[p]]).double()


def fixed_points(decay: float, noise: float) -> tuple[float, float]:
    """Return p- and p+ (NaN above the threshold)."""
    discriminant = 1 - 4 * decay * (1 + noise)
    if discriminant < 0:
        return math.nan, math.nan
    root = math.sqrt(discriminant)
    scale = 2 * (1 + noise)
    return (1 - root) / scale, (1 + root) / scale


def invariant() -> list[Row]:
    """s = p^2 / a for three ratios of learning rates."""
    rows = []
    _, plus = fixed_points(0.05, 0.25)
    for ratio in (0.1, 1.0, 10.0):
        w, p = mode(1.0, 1.0)
        w, p = descend(w, p, noise=0.25, decay=0.05, ratio=ratio, rate=0.005, steps=60000)
        s = float(w) ** 2
        rows.append(Row(f"p, predictor lr x {ratio:g}", float(p), plus, 0.002))
        name = f"s = p^2 / a, a = {ratio:g}"
        rows.append(Row(name, s, plus**2 / ratio, 0.005, relative=True))
    return rows


def threshold() -> list[Row]:
    """Weight decay below and above 1 / (4 (1 + sigma^2)) = 0.2, and the basin of attraction."""
    rows = []
    for decay, predicted in ((0.0, 0.64), (0.19, 0.2396), (0.21, 0.0)):
        w, p = mode(1.0, 1.0)
        w, _ = descend(w, p, noise=0.25, decay=decay, rate=0.02, steps=60000)
        rows.append(Row(f"s, weight decay {decay:g}", float(w) ** 2, predicted, 2e-3))
    minus, plus = fixed_points(0.1, 0.25)
    for factor, predicted in ((0.9, 0.0), (1.1, plus**2)):
        start = factor * minus
        w, p = mode(start * start, start)
        w, _ = descend(w, p, noise=0.25, decay=0.1, rate=0.05, steps=40000)
        rows.append(Row(f"s, started at {factor:g} p-", float(w) ** 2, predicted, 1e-3))
    return rows


def collapse() -> list[Row]:
    """Without predictor, and without stop-gradient."""
    rows = []
    one = torch.eye(1).double()
    for decay in (0.0, 0.05):
        w, _ = descend(one, one, noise=0.25, decay=decay, ratio=0.0, steps=2000)
        predicted = (1 - 0.01 * (0.25 + decay)) ** 4000
        name = f"s without predictor, weight decay {decay:g}"
        rows.append(Row(name, float(w) ** 2, predicted, 1e-6, relative=True))
    w, _ = descend(one, one, noise=0.25, decay=0.05, rate=0.05, steps=5000, stop_gradient=False)
    rows.append(Row("s without stop-gradient", float(w) ** 2, 0.0, 1e-6))
    _, plus = fixed_points(0.1, 0.25)
    for momentum in (0.9, 0.996):
        w, p = mode(1.0, 1.0)
        w, _ = descend(w, p, noise=0.25, decay=0.1, momentum=momentum, steps=40000)
        rows.append(Row(f"s, moving average {momentum:g}", float(w) ** 2, plus**2, 1e-3))
    return rows


def alignment() -> list[Row]:
    """From a random start P becomes symmetric, shares its eigenvectors with F, and is its root."""
    torch.manual_seed(0)
    w = torch.randn(6, 6).double() / 6**0.5
    p = torch.randn(6, 6).double() / 6**0.5
    w, p = descend(w, p @ p.T + 0.1 * p, noise=0.25, decay=0.02, rate=0.02, steps=120000)
    f = w @ w.T
    eigenvalues, eigenvectors = torch.linalg.eigh(f)
    alive = eigenvalues > 1e-6
    cosines = F.cosine_similarity(eigenvectors, p @ eigenvectors, dim=0).abs()[alive]
    root = eigenvectors @ torch.diag(eigenvalues.clamp(min=0).sqrt()) @ eigenvectors.T
    asymmetry = float((p - p.T).norm() / p.norm())
    distance = float((p - root).norm() / p.norm())
    return [
        Row("asymmetry of P", asymmetry, 0.0, 1e-5),
        Row("least |cos(u, P u)| over living modes", float(cosines.min()), 1.0, 1e-5),
        Row("|P - sqrt F| / |P|", distance, 0.0, 1e-3),
    ]


def directset() -> list[Row]:
    """Features survive if their noise is below 1 / (4 eta) - 1; epsilon rescues small modes."""
    return [*_surviving_features(), *_rescued_modes(), _directcopy_gain()]


def _surviving_features() -> list[Row]:
    """Return s of seven features, of which each has more noise than the one before."""
    noise = torch.tensor([0.0, 0.5, 1.0, 1.4, 1.6, 2.0, 4.0]).double()
    predicted = [0.7873, 0.2961, 0.1309, 0.0625, 0.0, 0.0, 0.0]

    def root(correlation: Tensor) -> Tensor:
        """Return DirectSet's P for alpha 1/2: the root of W Wᵀ."""
        return torch.diag((correlation.diagonal() / (1 + noise)).clamp(min=0).sqrt())

    start = torch.eye(7).double()
    w, _ = descend(
        start, start, noise=noise, decay=0.1, ratio=0.0, predictor=root, rate=0.05, steps=40000
    )
    rows = []
    for variance, gain, s in zip(noise.tolist(), w.diagonal().tolist(), predicted, strict=True):
        rows.append(Row(f"s, DirectSet(1/2), noise {variance:g}", gain**2, s, 2e-3))
    return rows


def _rescued_modes() -> list[Row]:
    """Return s of a mode that starts at 1e-4, for four epsilons."""
    rows = []
    for epsilon, predicted in ((0.0, 0.0), (0.05, 0.485), (0.1, 0.418), (0.2, 0.299)):

        def raised_root(correlation: Tensor, epsilon: float = epsilon) -> Tensor:
            """Return the root of W Wᵀ plus epsilon."""
            return (correlation / 1.25).clamp(min=0).sqrt() + epsilon

        w, p = mode(1e-4, 0.0)
        w, _ = descend(
            w, p, noise=0.25, decay=0.05, ratio=0.0, predictor=raised_root, rate=0.05, steps=40000
        )
        rows.append(Row(f"s from 1e-4, epsilon {epsilon:g}", float(w) ** 2, predicted, 2e-3))
    return rows


def _directcopy_gain() -> Row:
    """Return the gain of the package's predictor on the weaker of two directions."""
    predictor = DirectSet(2, epsilon=0.3, alpha=1.0)
    predictor.correlation.value.copy_(torch.diag(torch.tensor([4.0, 1.0])))
    gain = float(predictor.weights()[1, 1])
    return Row("DirectCopy's gain (spectral norm) on the weaker of (4, 1)", gain, 0.55, 1e-6)


def plot(folder: Path) -> None:
    """Plot s over time, below and above the threshold of weight decay."""
    from speechssl.drawing.style import legend_below, line_styles, panels, save

    rate = 0.02
    figure, (axes,) = panels((6.4, 4.4), 1)
    decays = (0.1, 0.19, 0.21, 0.3)
    for style, decay in zip(line_styles(len(decays)), decays, strict=True):
        curve: list[float] = []

        def keep(step: int, w: Tensor, p: Tensor, curve: list[float] = curve) -> None:
            curve.append(float(w) ** 2)

        w, p = mode(1.0, 1.0)
        descend(w, p, noise=0.25, decay=decay, rate=rate, steps=5000, watch=keep)
        times = [rate * step for step in range(len(curve))]
        axes.plot(times, curve, **style, lw=1.6, label=f"weight decay {decay:g}")
    axes.set(
        xlabel="time (learning rate x steps)",
        ylabel="s = eigenvalue of W Wᵀ",
        yscale="log",
        ylim=(1e-6, 2),
    )
    axes.set_title("collapse above weight decay 0.2 = 1 / (4 (1 + 0.25))")
    legend_below(figure, 4)
    save(figure, folder / "linear.png")


EXPERIMENTS = [invariant, threshold, collapse, alignment, directset]

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    main(parser, EXPERIMENTS, plot)
