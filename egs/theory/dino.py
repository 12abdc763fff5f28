"""DINO with centring or sharpening taken away (Caron et al. 2021, figure 7; methods/README.md 1.6).

    python egs/theory/dino.py [--out DIR]

The mixture of network.py, an encoder 32-64 (LayerNorm, ReLU) -32, a head of 64 prototypes, two long
and two local views, AdamW 1e-3, batch 64, 1,500 steps. Without the centre the teacher becomes
one-hot (entropy 0); without sharpening it becomes flat (ln K = 4.159); in both cases the divergence
of student and teacher is gone.
"""

from __future__ import annotations

import argparse
import math
from functools import cache
from pathlib import Path
from typing import Any

import torch
from _table import Row, main
from network import Mixture
from torch import Tensor, nn

from speechssl import interfaces
from speechssl.interfaces import Progress, Views
from speechssl.methods.dino import Dino

K, BATCH = 64, 64
ARMS: dict[str, dict[str, Any]] = {
    "full": {},
    "no centre": {"centre_momentum": 1.0},  # a centre that never moves from 0
    "no sharpening": {"teacher_temperature": 0.2},
    "equal temperatures": {"teacher_temperature": 0.1},
    "sinkhorn": {"centring": "sinkhorn", "teacher_temperature": 0.05},
}


class Encoder(interfaces.Encoder):
    """32 -> 32 through one hidden layer; a "frame" is the whole input."""

    embedding_dim = 32

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(32, 64), nn.LayerNorm(64), nn.ReLU(), nn.Linear(64, 32))

    def forward(self, features: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(B, 1, 32) -> (B, 32)."""
        return self.net(features.squeeze(1))


@cache
def curves(arm: str, steps: int = 1500, seed: int = 0) -> dict[str, list[float]]:
    """Scalars of every step of one arm."""
    torch.manual_seed(seed)
    options = {
        "prototypes": K, "layers": 2, "hidden": 64, "bottleneck": 16,
        "teacher_momentum": 0.99, "teacher_momentum_end": 0.99, "freeze_last_layer": 1.0,
    } | ARMS[arm]  # fmt: skip
    method = Dino(Encoder(), **options)
    data = Mixture(seed)
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=1e-3)
    kept: list[dict[str, Tensor]] = []
    for number in range(steps):
        progress = Progress(number, steps, 50)
        rows = torch.randint(1024, (BATCH,), generator=data.generator)
        views = [
            Views(data.views(rows, 2)[:, :, None]),
            Views(data.views(rows, 2)[:, :, None], "student"),
        ]
        output = method(views, progress)
        optimizer.zero_grad(set_to_none=True)
        output.loss.backward()
        method.after_backward(progress)
        optimizer.step()
        method.after_step(progress)
        kept.append(output.scalars)
    return {key: [float(s[key]) for s in kept] for key in kept[0]}


def run(arm: str, steps: int = 1500) -> dict[str, float]:
    """Means over the last 20 steps."""
    return {key: sum(values[-20:]) / 20 for key, values in curves(arm, steps).items()}


def ablations() -> list[Row]:
    """Teacher entropy, KL(q || p) and what prototypes are used, per arm."""
    got = {arm: run(arm) for arm in ARMS}
    full, flat, hot = got["full"], got["no sharpening"], got["no centre"]
    return [
        Row("full: teacher entropy", full["teacher_entropy"], 0.02, 0.1),
        Row("full: KL over KL without centre", full["kl"] / max(hot["kl"], 1e-9), low=10),
        Row("full: KL over KL without sharpening", full["kl"] / max(flat["kl"], 1e-9), low=10),
        Row("full: prototypes used", full["used_prototypes"], low=6),
        Row("no centre: teacher entropy", hot["teacher_entropy"], 0.0, 1e-3),
        Row(
            "no centre: entropy of the mean, below full by",
            full["mean_assignment_entropy"] - hot["mean_assignment_entropy"],
            low=0.4,
        ),
        Row("no sharpening: teacher entropy = ln K", flat["teacher_entropy"], math.log(K), 1e-3),
        Row(
            "equal temperatures: teacher entropy",
            got["equal temperatures"]["teacher_entropy"],
            2.84,
            0.6,
        ),
        Row("sinkhorn: teacher entropy", got["sinkhorn"]["teacher_entropy"], 1.68, 0.6),
        Row("sinkhorn: KL", got["sinkhorn"]["kl"], 0.20, 0.1),
        Row(
            "sinkhorn: entropy of the mean", got["sinkhorn"]["mean_assignment_entropy"], 4.145, 0.06
        ),
    ]


def plot(folder: Path) -> None:
    """Entropy and divergence over the steps."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4))
    for arm in ("full", "no centre", "no sharpening"):
        got = curves(arm)
        axes[0].plot(got["teacher_entropy"], label=arm)
        axes[1].plot([max(value, 1e-6) for value in got["kl"]], label=arm)
    axes[0].set(title="teacher entropy (ln K = 4.16)", xlabel="step")
    axes[1].set(title="KL(teacher || student)", xlabel="step", yscale="log")
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(folder / "dino.png", dpi=120)


EXPERIMENTS = [ablations]

if __name__ == "__main__":
    torch.set_num_threads(1)
    main(
        argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter),
        EXPERIMENTS,
        plot,
    )
