"""Losses as the papers' programs have them: written anew here, value and gradient in float64.

At batches of 2 and more, on constant input, and at the first, a middle and the last step. Those of
the programs that could be had were compared with these methods by hand as well
(methods/README.md 16).
"""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from builders import ToyEncoder
from torch import nn

from speechssl import parts
from speechssl.interfaces import Encoder, Progress, Views
from speechssl.losses.margin import aam_logits
from speechssl.methods.aam_softmax import AAMSoftmax
from speechssl.methods.c3_dino import concentrations
from speechssl.methods.vibcreg import channels_of_a_group, iterative_whitening

MELS = 6
STEPS = [Progress(0, 100, 10), Progress(50, 100, 10), Progress(99, 100, 10)]


def normal(*shape, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def make(name, **settings):
    torch.manual_seed(0)
    return parts.build("methods", {"name": name, **settings}, ToyEncoder(MELS)).double().train()


def same_value_and_gradient(ours, formula, *inputs):
    """Two scalar functions of the same float64 tensors."""
    one = [x.clone().requires_grad_() for x in inputs]
    two = [x.clone().requires_grad_() for x in inputs]
    value, wanted = ours(*one), formula(*two)
    torch.testing.assert_close(value, wanted, rtol=1e-10, atol=1e-10)
    got = torch.autograd.grad(value, one)
    want = torch.autograd.grad(wanted, two)
    for a, b in zip(got, want, strict=True):
        assert bool(a.isfinite().all())
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


# VIbCReg (Lee and Aune 2021)


def whitened_by_the_formula(z, channels, iterations=5, eps=1e-5):
    """Sigma^(-1/2) of neighbouring channels, by Newton's iteration on Sigma / tr Sigma."""
    columns = []
    for first in range(0, z.shape[1], channels):
        x = z[:, first : first + channels]
        x = x - x.mean(0)
        sigma = x.T @ x / len(x) + eps * torch.eye(channels, dtype=z.dtype)
        p = torch.eye(channels, dtype=z.dtype)
        for _ in range(iterations):
            p = (3 * p - p @ p @ p @ (sigma / sigma.trace())) / 2
        columns.append(x @ p / sigma.trace().sqrt())
    return torch.cat(columns, 1)


def vibcreg_by_the_formula(one, two, channels):
    a, b = (whitened_by_the_formula(z, channels) if channels else z for z in (one, two))
    total = 25 * (a - b).square().mean()
    for z in (a, b):
        total = total + 25 * F.relu(1 - (z.var(0) + 1e-4).sqrt()).mean()
        centred = z - z.mean(0)
        unit = centred / centred.norm(dim=0).clamp(min=1e-12)
        correlation = unit.T @ unit
        off = correlation - correlation.diagonal().diag()
        total = total + 200 * off.square().mean()
    return total


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("groups, channels", [(64, 1), (4, 2), (1, 8), (0, 0)])
@pytest.mark.parametrize("batch", [2, 16])
def test_vibcreg_sums_its_variance_and_whitens_in_groups(batch, groups, channels, step):
    whitening = {"whitening_groups": groups} if groups else {"whitening_iterations": 0}
    method = make("vibcreg", hidden=16, projection=8, **whitening)
    same_value_and_gradient(
        lambda one, two: method.pair(one, two, step)[0],
        lambda one, two: vibcreg_by_the_formula(one, two, channels),
        normal(batch, 8) * torch.arange(1, 9),
        normal(batch, 8, seed=1) + 3,
    )


def test_the_reproduction_of_vibcregs_loss():
    """The figure of methods/README.md 15, which the released program gives for the same numbers."""
    one = 0.3 * normal(32, 64)
    g = torch.Generator().manual_seed(0)
    torch.randn(32, 64, generator=g, dtype=torch.float64)
    two = one + 0.1 * torch.randn(32, 64, generator=g, dtype=torch.float64)
    loss, _ = make("vibcreg", hidden=16, projection=64).pair(one, two, STEPS[0])
    assert float(loss.detach()) == pytest.approx(15.06047529421804, abs=1e-12)


def test_vibcreg_of_constant_projections_is_its_variance():
    method = make("vibcreg", hidden=16, projection=8)
    constant = torch.full((6, 8), 3.0, dtype=torch.float64, requires_grad=True)
    loss, terms = method.pair(constant, constant, STEPS[0])
    # each deviation is sqrt(0 + 1e-4) = .01, and there are two views
    torch.testing.assert_close(loss, torch.tensor(25 * 2 * 0.99, dtype=torch.float64))
    assert terms["covariance"] == 0
    (gradient,) = torch.autograd.grad(loss, constant)
    assert bool(gradient.isfinite().all())


def test_vibcregs_whitening_learns_a_scale_and_a_shift_of_each_channel():
    method = make("vibcreg", hidden=16, projection=8)
    one, two = normal(16, 8), normal(16, 8, seed=1)
    before, _ = method.pair(one, two, STEPS[0])
    with torch.no_grad():
        method.whitening.bias.fill_(5.0)
    shifted, _ = method.pair(one, two, STEPS[0])
    torch.testing.assert_close(before, shifted)  # no term sees a shift of both views
    with torch.no_grad():
        method.whitening.weight.fill_(2.0)
    _, terms = method.pair(one, two, STEPS[0])
    torch.testing.assert_close(
        terms["invariance"],
        4
        * F.mse_loss(
            iterative_whitening(one, 5, channels=1), iterative_whitening(two, 5, channels=1)
        ),
    )


def test_many_iterations_whiten_as_the_eigendecomposition_does():
    z = normal(64, 6) * torch.linspace(1, 2, 6)
    centred = z - z.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / 64 + 1e-5 * torch.eye(6).double())
    wanted = centred @ (vectors / values.sqrt()) @ vectors.T
    torch.testing.assert_close(iterative_whitening(z, 10), wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dim, channels", [(8, 1), (64, 1), (96, 2), (256, 4), (4096, 64), (65, 1)])
def test_the_channels_of_a_group_divide_the_projection(dim, channels):
    assert channels_of_a_group(dim, 64) == channels


# DimCL (Nguyen et al. 2023)


def nt_xent_of_dimensions(one, two, temperature=0.1):
    rows = []
    for z in (one, two):
        centred = z - z.mean(0)
        rows.append(F.normalize((centred / (z.var(0, unbiased=False) + 1e-5).sqrt()).T, dim=1))
    dims = torch.cat(rows)
    similarity = dims @ dims.T / temperature
    count = len(rows[0])
    total = similarity.new_zeros(())
    for i in range(2 * count):
        others = [j for j in range(2 * count) if j != i]
        total = (
            total + similarity[i, others].logsumexp(0) - similarity[i, (i + count) % (2 * count)]
        )
    return total / (2 * count)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("base, sums", [("byol", True), ("simsiam", False)])
@pytest.mark.parametrize("constant", [False, True])
def test_dimcl_weighs_its_base_as_the_program_does(base, sums, constant, step):
    section = {"name": base, "hidden": 8, "projection": 4, "predictor": "none"}
    method = make("dimcl", base=section, weight=0.1)
    features = normal(2, 4, 5, MELS)
    if constant:
        features = torch.ones_like(features) + 1e-3 * features
    output = method([Views(features, ids=torch.arange(4))], step)
    z = output.projections.double()
    if base == "byol":
        teacher = copy.deepcopy(method.base.teacher)
        with torch.no_grad():
            embedded = teacher.encoder(features.flatten(0, 1)).view(2, 4, -1)
            target = torch.stack([teacher.projector(view) for view in embedded]).float().double()
    else:
        target = z.detach()
    cosines = [F.cosine_similarity(z[v], target[u], dim=-1).mean() for u, v in ((0, 1), (1, 0))]
    directions = [2 - 2 * c for c in cosines] if sums else [-c / 2 for c in cosines]
    wanted = 0.9 * sum(directions) + 0.1 * nt_xent_of_dimensions(z[0], z[1])
    torch.testing.assert_close(output.loss.double(), wanted, rtol=1e-4, atol=1e-5)
    parameters = list(
        method.encoder.parameters() if base == "simsiam" else method.base.net.encoder.parameters()
    )
    got = torch.autograd.grad(output.loss, parameters, retain_graph=True)
    for a, b in zip(got, torch.autograd.grad(wanted, parameters), strict=True):
        torch.testing.assert_close(a, b, rtol=2e-3, atol=1e-5)


def test_dimcls_scale_of_the_base_can_be_set():
    views = [Views(normal(2, 4, 5, MELS), ids=torch.arange(4))]
    section = {"name": "byol", "hidden": 8, "projection": 4, "predictor": "none"}
    output = make("dimcl", base=section, weight=0.25, base_scale=3.0)(views, STEPS[0])
    parts_ = output.scalars
    torch.testing.assert_close(
        output.loss.detach(), 0.75 * 3 * parts_["base"] + 0.25 * parts_["dimcl"]
    )


# SwAV and DeepCluster-v2: the program runs its head once, on the crops of all lengths


def crops_of_two_lengths(batch, constant):
    views = [normal(2, batch, 5, MELS), normal(3, batch, 3, MELS, seed=1)]
    if constant:
        views = [torch.ones_like(x) + 1e-3 * x for x in views]
    return [Views(x, "both", torch.arange(batch)) for x in views]


def unit_projections(method, views):
    """(V, B, P) of length 1; BatchNorm's statistics are those of all V B rows."""
    embeddings = torch.cat([method.encoder(group.features.flatten(0, 1)) for group in views])
    z = method.net.projector(embeddings)
    return F.normalize(z, dim=1).view(5, -1, z.shape[1])


def balanced_codes(scores):
    """Sinkhorn's algorithm as SwAV has it, on exp(scores / .05) of (B, K)."""
    q = (scores / 0.05).exp().T
    q = q / q.sum()
    for _ in range(3):
        q = q / q.sum(1, keepdim=True) / len(q)
        q = q / q.sum(0, keepdim=True) / q.shape[1]
    return (q * q.shape[1]).T.detach()


def swav_by_the_formula(method, views):
    z = unit_projections(method, views)
    scores = z @ (method.prototypes / method.prototypes.detach().norm(dim=1, keepdim=True)).T
    log_p = (scores / 0.1).log_softmax(-1)
    total = 0.0
    for u in range(2):
        others = [v for v in range(5) if v != u]
        code = balanced_codes(scores[u])
        total = total + sum(-(code * log_p[v]).sum(1).mean() for v in others) / len(others) / 2
    return total


def deepcluster_by_the_formula(method, views):
    z = unit_projections(method, views)
    total = 0.0
    for head, prototypes in enumerate(method.prototypes):
        for view in z:
            total = total + F.cross_entropy(view @ prototypes.T / 0.1, method.assigned[head])
    return total / (len(method.prototypes) * len(z))


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("batch", [2, 6])
@pytest.mark.parametrize("name", ["swav", "deepcluster"])
def test_the_head_sees_all_crops_at_once(name, batch, constant, step):
    method = make(name, hidden=8, projection=4, prototypes=3)
    method.prepare(batch)
    formula = swav_by_the_formula
    if name == "deepcluster":
        formula = deepcluster_by_the_formula
        method.assigned.copy_(torch.arange(3 * batch).view(3, batch) % 3)
        method.clustered.fill_(step.step)  # just now
    views = crops_of_two_lengths(batch, constant)
    twin = copy.deepcopy(method)
    loss = method(views, step).loss
    wanted = formula(twin, views)
    torch.testing.assert_close(loss.double(), wanted, rtol=1e-5, atol=1e-6)
    loss.backward()
    wanted.backward()
    for ours, theirs in zip(method.net.parameters(), twin.net.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=2e-3, atol=2e-5)


# BYOL


def test_byol_builds_its_own_projector_only():
    torch.manual_seed(0)
    encoder = ToyEncoder(MELS)
    state = torch.get_rng_state()
    parts.build(
        "methods", {"name": "byol", "predictor": "none", "hidden": 8, "projection": 4}, encoder
    )
    after = torch.get_rng_state()
    torch.set_rng_state(state)
    nn.Linear(encoder.embedding_dim, 8, bias=False)
    nn.Linear(8, 4)
    assert torch.equal(torch.get_rng_state(), after)


# ProtoNCE's concentrations (PCL, Li et al. 2021)


def test_concentrations_are_clipped_to_percentiles_and_singles_get_the_largest_of_the_others():
    # methods/README.md 14.6: 10, 10 and 1 members, mean distances .2 and .4
    g = torch.Generator().manual_seed(0)
    offsets = torch.randn(21, 3, generator=g, dtype=torch.float64)
    distances = torch.tensor([0.2] * 10 + [0.4] * 10 + [1.7], dtype=torch.float64)
    labels = torch.tensor([0] * 10 + [1] * 10 + [2])
    centroids = 5 * torch.eye(3, dtype=torch.float64)
    z = centroids[labels] + F.normalize(offsets, dim=1) * distances[:, None]
    got = concentrations(z, centroids, labels, 0.2)
    wanted = torch.tensor([0.138462, 0.230769, 0.230769], dtype=torch.float64)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("members", [2, 30])
def test_concentrations_are_the_papers(members):
    rng = np.random.default_rng(members)
    labels = rng.permutation(np.r_[np.repeat(np.arange(12), members), 12, 14])  # 13 has no member
    z = normal(len(labels), 5, seed=3)
    z = F.normalize(z * torch.tensor(1.0 + labels)[:, None] / 5 + 1, dim=1)
    centroids = F.normalize(normal(15, 5, seed=4), dim=1)
    distance = np.linalg.norm(z.numpy() - centroids.numpy()[labels], axis=1)
    phi = np.zeros(15)
    sizes = np.bincount(labels, minlength=15)
    for c in range(15):
        if sizes[c] > 1:
            phi[c] = distance[labels == c].mean() / math.log(sizes[c] + 10)
    phi[sizes <= 1] = phi.max()
    phi = phi.clip(np.percentile(phi, 10), np.percentile(phi, 90))
    got = concentrations(z, centroids, torch.tensor(labels), 0.1)
    np.testing.assert_allclose(got.numpy(), 0.1 * phi / phi.mean(), rtol=1e-10)


def test_concentrations_without_any_distance_are_the_temperature():
    z = F.normalize(normal(3, 4), dim=1)
    alone = concentrations(z, z, torch.arange(3), 0.1)
    assert alone.tolist() == pytest.approx([0.1] * 3)
    equal = concentrations(z[[0, 0, 1, 1]], z, torch.tensor([0, 0, 1, 1]), 0.1)
    assert equal.tolist() == pytest.approx([0.1] * 3)


# AAM-softmax beyond pi - m, its penalty, and correction of labels


@pytest.mark.parametrize("margin", [0.0, 0.2, 0.5])
@pytest.mark.parametrize("beyond", ["arcface", "wespeaker", "none"])
@pytest.mark.parametrize("batch", [2, 40])
def test_the_target_beyond_pi_minus_m_is_as_each_program_has_it(batch, beyond, margin):
    angles = torch.linspace(0.3, 3.0, 3 * batch, dtype=torch.float64).view(batch, 3)
    labels = torch.arange(batch) % 3

    def formula(cosines):
        target = cosines.gather(1, labels[:, None])
        theta = target.acos()
        turned = (theta + margin).cos()
        if beyond == "arcface":
            turned = torch.where(
                theta < math.pi - margin, turned, target - margin * math.sin(margin)
            )
        if beyond == "wespeaker":
            turned = torch.where(theta < math.pi - margin, turned, target - 1 + math.cos(margin))
        return F.cross_entropy(30 * cosines.scatter(1, labels[:, None], turned), labels)

    same_value_and_gradient(
        lambda cosines: F.cross_entropy(
            aam_logits(cosines, labels, 30.0, margin, beyond=beyond), labels
        ),
        formula,
        angles.cos(),
    )


def test_beyond_pi_minus_m_the_three_programs_differ_as_measured():
    cosines = torch.tensor([[-0.999, 0.2]], dtype=torch.float64)
    logits = [
        float(aam_logits(cosines, torch.tensor([0]), 1.0, 0.5, beyond=kind)[0, 0])
        for kind in ("arcface", "wespeaker", "none")
    ]
    theta = math.acos(-0.999)
    assert logits == pytest.approx(
        [-0.999 - 0.5 * math.sin(0.5), -0.999 - 1 + math.cos(0.5), math.cos(theta + 0.5)]
    )
    assert logits[0] < logits[1] < logits[2]


class Rows(Encoder):
    """Features are embeddings: (B, 1, D) -> (B, D)."""

    embedding_dim = 3

    def forward(self, features, lengths=None):
        return features[:, 0]


def aam(labels, **settings):
    torch.manual_seed(0)
    method = AAMSoftmax(Rows(), **settings).train()
    method.prepare(len(labels), torch.tensor(labels))
    method.centres.data = normal(*method.centres.shape, seed=7).float()
    return method


@pytest.mark.parametrize(
    "step, share", [(STEPS[0], 0.0), (Progress(25, 100, 10), 0.5), (STEPS[2], 1.0)]
)
def test_the_penalty_rises_with_the_margin(step, share):
    labels = [0, 1, 2, 3]
    method = aam(labels, margin=0.2, margin_warmup=0.5, intertop_k=2, intertop_margin=0.06)
    x = normal(4, 3)
    output = method([Views(x[None, :, None], ids=torch.arange(4))], step)
    cosines = F.normalize(x, dim=1).float() @ F.normalize(method.centres[:, 0], dim=1).float().T
    total = 0.0
    for row in range(4):
        angles = cosines[row].acos().clone()
        others = [c for c in range(4) if c != labels[row]]
        nearest = sorted(others, key=lambda c: float(angles[c]))[:2]
        angles[labels[row]] += 0.2 * share
        for c in nearest:
            angles[c] -= 0.06 * share
        total += float(F.cross_entropy(30 * angles.cos()[None], torch.tensor([labels[row]])))
    assert float(output.loss) == pytest.approx(total / 4, rel=1e-4)


def released_correction(x, clean, centres, labels, gate, margin=0.2):
    """Loss of the released DLG-LC once correction has begun, sample by sample."""
    losses = []
    for row, label in enumerate(labels):
        theta = F.cosine_similarity(x[row], centres, dim=-1).acos()
        theta = torch.stack([t + margin if c == label else t for c, t in enumerate(theta)])
        logits = 30 * theta.cos()
        own = logits.logsumexp(0) - logits[label]
        probabilities = ((clean[row] @ centres.T) / 0.1).softmax(0)
        predicted = int(probabilities.argmax())
        if own.log() <= math.log(gate):
            losses.append(own)
        elif probabilities[predicted] > 0.5:
            losses.append(logits.logsumexp(0) - logits[predicted])
        else:
            losses.append(0 * own)
    return torch.stack(losses).sum() / len(losses)


@pytest.mark.parametrize("batch", [2, 24])
@pytest.mark.parametrize("step", [Progress(60, 100, 10), Progress(80, 100, 10), STEPS[2]])
@pytest.mark.parametrize("constant", [False, True])
def test_correction_with_hard_targets_is_the_released_one(batch, step, constant):
    labels = [row % 5 for row in range(batch)]
    method = aam(
        [*labels, 4],
        margin=0.2,
        margin_warmup=0.0,
        gate="fixed",
        gate_loss=6.0,
        gate_after=0.3,
        correct_after=0.6,
        correction="hard",
    )
    x = normal(batch, 3)
    clean = x + 0.1 * normal(batch, 3, seed=1)
    if constant:
        x = torch.ones_like(x)
        clean = torch.ones_like(x)
    ids = torch.arange(batch)
    x = x.requires_grad_()
    clean_views = Views(clean[None, :, None], "teacher", ids)
    output = method([Views(x[None, :, None], ids=ids), clean_views], step)
    (gradient,) = torch.autograd.grad(output.loss, x)
    again = x.detach().clone().requires_grad_()
    wanted = released_correction(again, clean, method.centres[:, 0].detach().double(), labels, 6.0)
    assert float(output.loss) == pytest.approx(float(wanted), rel=1e-5)
    (wanted_gradient,) = torch.autograd.grad(wanted, again)
    torch.testing.assert_close(gradient, wanted_gradient, rtol=1e-3, atol=1e-5)
    assert output.embedding.shape == (batch, 3)  # the clean crops are not trained on


def test_before_correction_begins_the_mean_is_over_what_is_kept():
    settings = {"gate": "fixed", "gate_loss": 6.0, "gate_after": 0.0, "margin_warmup": 0.0}
    views = [Views(normal(24, 3)[None, :, None], ids=torch.arange(24))]
    labels = [row % 5 for row in range(24)]
    hard = aam(labels, **settings, correct_after=0.5, correction="hard")
    soft = aam(labels, **settings)
    output = hard(views, STEPS[0])
    assert 0 < output.scalars["kept"] < 1
    assert torch.equal(output.loss, soft(views, STEPS[0]).loss)
