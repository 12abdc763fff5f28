"""DINO on a mixture with a known outcome: what centring and sharpening each prevent (METHODS.md 1.6, 2.9)."""

import math

import pytest
import torch
from torch import nn

from speechssl.methods._base import Progress, Views
from speechssl.methods.dino import Dino

K, BATCH = 64, 64
ARMS = {
    "full": {},
    "no centre": {"centre_momentum": 1.0},  # a centre that never moves from 0
    "no sharpening": {"teacher_temperature": 0.2},
    "equal temperatures": {"teacher_temperature": 0.1},
    "sinkhorn": {"centring": "sinkhorn", "teacher_temperature": 0.05},
}


@pytest.fixture(autouse=True)
def one_thread():
    """Tensors this small only suffer from more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Mixture:
    """1024 points in R^32: one of 8 classes in the first half, nuisance in the second."""

    def __init__(self, seed=0):
        self.generator = torch.Generator().manual_seed(seed)
        means = 1.5 * self.normal(8, 16)
        self.labels = torch.randint(8, (1024,), generator=self.generator)
        self.points = means[self.labels] + 0.5 * self.normal(1024, 16)

    def normal(self, *shape):
        return torch.randn(*shape, generator=self.generator)

    def views(self, rows, count):
        """(count, B, 1, 32): noise on the first half, the second drawn anew."""
        first = self.points[rows] + 0.3 * self.normal(count, len(rows), 16)
        return torch.cat([first, self.normal(count, len(rows), 16)], -1)[:, :, None]

    def batch(self):
        rows = torch.randint(1024, (BATCH,), generator=self.generator)
        return [Views(self.views(rows, 2)), Views(self.views(rows, 2), "student")]


class Encoder(nn.Module):
    dim = 32

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(32, 64), nn.LayerNorm(64), nn.ReLU(), nn.Linear(64, 32))

    def forward(self, features, lengths=None):
        return self.net(features.squeeze(1))


def run(arm, steps, seed=0):
    """Figures of the last 20 steps (means) after training."""
    torch.manual_seed(seed)
    options = {
        "prototypes": K, "layers": 2, "hidden": 64, "bottleneck": 16,
        "teacher_momentum": 0.99, "teacher_momentum_end": 0.99, "freeze_last_layer": 1.0,
    } | ARMS[arm]  # fmt: skip
    method = Dino(Encoder(), **options)
    data = Mixture(seed)
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=1e-3)
    kept = []
    for number in range(steps):
        progress = Progress(number, steps, 50)
        output = method(data.batch(), progress)
        optimizer.zero_grad(set_to_none=True)
        output.loss.backward()
        method.after_backward(progress)
        optimizer.step()
        method.after_step(progress)
        kept.append(output.scalars)
    return {key: torch.stack([s[key] for s in kept[-20:]]).mean().item() for key in kept[0]}


def test_sharpening_is_what_keeps_the_teacher_from_being_flat():
    full, flat = run("full", 300), run("no sharpening", 300)
    assert flat["teacher_entropy"] > 0.98 * math.log(K)
    assert full["teacher_entropy"] < 0.05 * math.log(K)
    assert full["kl"] > 10 * flat["kl"]
    assert full["used_prototypes"] > 5


@pytest.mark.slow
def test_the_five_arms_end_as_the_table_says():
    got = {arm: run(arm, 1500) for arm in ARMS}
    entropy = {arm: figures["teacher_entropy"] for arm, figures in got.items()}
    kl = {arm: figures["kl"] for arm, figures in got.items()}
    assert entropy["no centre"] < 1e-3
    assert entropy["no sharpening"] == pytest.approx(math.log(K), abs=1e-3)
    assert kl["full"] > 10 * max(kl["no centre"], kl["no sharpening"])
    assert got["no centre"]["mean_assignment_entropy"] < got["full"]["mean_assignment_entropy"] - 0.5
    assert entropy["full"] < 0.1 < 2 < entropy["equal temperatures"] < 3.5
    assert got["sinkhorn"]["mean_assignment_entropy"] > 0.97 * math.log(K)
    assert kl["sinkhorn"] > 0.1 and 1 < entropy["sinkhorn"] < 2.5
