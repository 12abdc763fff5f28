"""CCFC's loss of clusters: the known answers of methods/README.md 14.2, and a plain loop."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from builders import ToyEncoder

from speechssl import parts
from speechssl.interfaces import Method, Progress, Views
from speechssl.methods.ccfc import cluster_loss
from speechssl.methods.simclr import nt_xent


def test_equal_members_give_minus_one_and_two_orthogonal_ones_minus_a_half() -> None:
    equal = torch.tensor([[3.0, 0.0], [5.0, 0.0], [0.1, 0.0]])
    loss = cluster_loss(equal, equal, torch.zeros(3, dtype=torch.int64))
    assert float(loss) == pytest.approx(-1.0)
    orthogonal = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    loss = cluster_loss(orthogonal, orthogonal, torch.zeros(2, dtype=torch.int64))
    assert float(loss) == pytest.approx(-0.5)


def test_it_is_the_mean_over_clusters_of_the_mean_over_ordered_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    p = torch.randn(9, 4, generator=generator)
    z = torch.randn(9, 4, generator=generator)
    labels = torch.tensor([5, 5, 5, 2, 2, 9, 1, 1, 1])  # 9 has one member
    terms = []
    for cluster in (5, 2, 1):
        members = [row for row in range(9) if labels[row] == cluster]
        pairs = [F.cosine_similarity(p[i], z[j], dim=0) for i in members for j in members]
        terms.append(-torch.stack(pairs).mean())
    torch.testing.assert_close(cluster_loss(p, z, labels), torch.stack(terms).mean())


def test_without_two_members_there_is_no_loss() -> None:
    assert cluster_loss(torch.ones(3, 2), torch.ones(3, 2), torch.arange(3)) is None


def make(labels: torch.Tensor | None, **settings: object) -> Method:
    torch.manual_seed(0)
    section = {"name": "ccfc", "hidden": 12, "projection": 6, **settings}
    method: Method = parts.build("methods", section, ToyEncoder(8)).train()
    method.prepare(6, labels)
    return method


def batch() -> list[Views]:
    features = torch.randn(2, 6, 10, 8, generator=torch.Generator().manual_seed(1))
    return [Views(features, ids=torch.arange(6))]


def test_without_labels_it_is_simsiam_and_near_the_weights_of_all_clients() -> None:
    progress = Progress(0, 10, 1)
    torch.manual_seed(0)
    simsiam = parts.build(
        "methods", {"name": "simsiam", "hidden": 12, "projection": 6}, ToyEncoder(8)
    ).train()
    plain = make(None, global_weight=0.0)(batch(), progress).loss
    assert torch.equal(plain, simsiam(batch(), progress).loss)
    held = make(None, global_weight=0.5)
    output = held(batch(), progress)
    # The weights of all clients are still its own: every cosine of the term is 1.
    torch.testing.assert_close(output.loss, plain - 0.5)


def test_a_round_starts_by_keeping_the_weights_of_all_clients() -> None:
    method = make(None)
    for parameter in method.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    progress = Progress(0, 10, 1)
    moved = method(batch(), progress).scalars["global"]
    assert float(moved) > -0.999
    method.start_round()
    assert float(method(batch(), progress).scalars["global"]) == pytest.approx(-1.0, abs=1e-5)


def test_with_labels_members_of_a_cluster_are_each_others_targets() -> None:
    progress = Progress(0, 10, 1)
    alone = make(torch.arange(6))(batch(), progress).loss
    assert torch.equal(alone, make(None)(batch(), progress).loss)  # nobody has a second member
    together = make(torch.tensor([0, 0, 1, 1, 2, 2]))(batch(), progress).loss
    assert not torch.equal(together, alone)


def test_the_regulariser_adds_nt_xent_of_the_projections_to_any_method() -> None:
    def section(weight: float) -> dict[str, object]:
        base = {"name": "byol", "hidden": 12, "projection": 6}
        return {"name": "plus_contrast", "base": base, "weight": weight, "temperature": 0.5}

    outputs = []
    for weight in (0.0, 0.3):
        torch.manual_seed(0)
        method = parts.build("methods", section(weight), ToyEncoder(8)).train()
        method.prepare(6)
        outputs.append(method(batch(), Progress(0, 10, 1)))
    plain, regularised = outputs
    contrast = nt_xent(plain.projections, 0.5)
    torch.testing.assert_close(regularised.loss, plain.loss + 0.3 * contrast)
