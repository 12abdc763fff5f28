"""Online pairwise learning: each step compares an instance with the one before it (methods/README.md 14.5).

    python egs/theory/pairwise.py

Yang et al. 2021 (NeurIPS): w <- w - eta grad f(w; z_t, z_{t-1}), a storage of one
instance. For f(w; z, z') = (w . (z - z'))^2 / 2 + |w - w0|^2 / 2 the expected loss over
independent pairs has its minimum at (I + 2 Sigma)^-1 w0, with Sigma the covariance of
z, because E (z - z')(z - z')^T = 2 Sigma. Successive pairs share an instance, and the
mean iterate still goes there.

In representation learning it is MoCo with a queue of one in batches of one.
"""

from __future__ import annotations

import argparse
import math

import torch
from _table import Row, main
from torch import Tensor, nn

from speechssl.interfaces import Encoder, Progress, Views
from speechssl.methods.moco import MoCo, moco_loss


def pair_sgd(
    covariance: Tensor, w0: Tensor, chains: int = 500, steps: int = 4000, rate: float = 0.5
) -> Tensor:
    """Return the mean iterate (D,) over the second half of the steps, and over the chains.

    Args:
        covariance: (D, D) of z, whose mean is not zero.
        w0: (D,).
        chains: independent runs, taken together.
        steps: of each run.
        rate: eta of step t is rate / sqrt(t).
    """
    generator = torch.Generator().manual_seed(0)
    root = torch.linalg.cholesky(covariance)
    size = len(w0)
    noise = torch.randn(chains, size, generator=generator, dtype=torch.float64)
    before = noise @ root.T + 1.0
    w = torch.zeros(chains, size, dtype=torch.float64)
    total = torch.zeros(size, dtype=torch.float64)
    for step in range(1, steps + 1):
        noise = torch.randn(chains, size, generator=generator, dtype=torch.float64)
        z = noise @ root.T + 1.0
        gap = z - before
        gradient = (w * gap).sum(1, keepdim=True) * gap + w - w0
        # small at first, too: the first gradients are those of a few pairs
        w = w - rate / math.sqrt(step + 400) * gradient
        before = z
        if step > steps // 2:
            total += w.mean(0)
    return total / (steps - steps // 2)


def linear() -> list[Row]:
    """Mean iterate of pair-SGD against the minimiser of the expected pairwise loss."""
    covariance = torch.tensor([[1.0, 0.3, 0.0], [0.3, 0.5, -0.2], [0.0, -0.2, 0.2]]).double()
    w0 = torch.tensor([1.0, -2.0, 0.5]).double()
    found = pair_sgd(covariance, w0)
    expected = torch.linalg.solve(torch.eye(3).double() + 2 * covariance, w0)
    rows = []
    for number in range(3):
        measured, predicted = float(found[number]), float(expected[number])
        rows.append(Row(f"coordinate {number + 1} of w", measured, predicted, 0.02))
    wrong = torch.linalg.solve(torch.eye(3).double() + covariance, w0)
    distance = float((found - expected).norm() / (wrong - expected).norm())
    rows.append(Row("distance, 1 = that to (I + Sigma)^-1 w0", distance, high=0.1))
    return rows


def loss_of_one_negative() -> list[Row]:
    """MoCo's loss against a queue of one, tau 0.2: softplus((c- - c+) / tau)."""
    query = torch.tensor([[1.0, 0.0]])
    rows = []
    for name, negative, predicted in (
        ("orthogonal", [[0.0, 1.0]], math.log(1 + math.exp(-5))),
        ("collapsed", [[1.0, 0.0]], math.log(2)),
        ("opposite", [[-1.0, 0.0]], math.log(1 + math.exp(-10))),
    ):
        loss = float(moco_loss(query, query, torch.tensor(negative), 0.2))
        rows.append(Row(f"{name} negative", loss, predicted, 1e-6))
    return rows


class _Direction(Encoder):
    """The mean frame, as it is: an encoder without statistics of the batch."""

    embedding_dim = 4

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, features: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return (B, D) for features (B, F, D)."""
        embeddings: Tensor = self.layer(features.mean(1))
        return embeddings


def stream() -> list[Row]:
    """MoCo in batches of one: the first step has no negative, later ones the utterance before."""
    torch.manual_seed(0)
    method = MoCo(
        _Direction(), hidden=8, projection=4, queue_size=1, temperature=0.2, initial_queue="empty"
    )
    rows = []
    previous: Tensor | None = None
    for step in range(3):
        features = torch.randn(2, 1, 5, 4, generator=torch.Generator().manual_seed(step))
        z = nn.functional.normalize(method.net.projector(method.net.encoder(features[:, 0])), dim=1)
        keys = nn.functional.normalize(
            method.teacher.projector(method.teacher.encoder(features[:, 0])), dim=1
        )
        loss = method([Views(features)], Progress(step, 3, 3)).loss
        predicted = 0.0
        if previous is not None:
            terms = [
                (z[1] @ previous - z[1] @ keys[0]) / 0.2,
                (z[0] @ previous - z[0] @ keys[1]) / 0.2,
            ]
            predicted = float(nn.functional.softplus(torch.stack(terms)).mean())
        rows.append(Row(f"loss of step {step + 1}", float(loss.detach()), predicted, 1e-5))
        if previous is None:
            loss.backward()
            gradients = [p.grad for p in method.parameters() if p.grad is not None]
            largest = max(float(gradient.abs().max()) for gradient in gradients)
            rows.append(Row("largest gradient of step 1", largest, 0.0, 1e-12))
        previous = keys[1].detach()
    return rows


EXPERIMENTS = [linear, loss_of_one_negative, stream]

if __name__ == "__main__":
    main(
        argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter),
        EXPERIMENTS,
    )
