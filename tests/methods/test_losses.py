"""The losses of the decorrelating, contrastive and clustering methods by hand.

methods/README.md 4 to 7.
"""

import math

import pytest
import torch
import torch.nn.functional as F

from speechssl.errors import UserError
from speechssl.methods.barlow_twins import barlow_loss, standardised
from speechssl.methods.c3_dino import collision_weights, concentrations
from speechssl.methods.dimcl import dimension_contrast
from speechssl.methods.moco import moco_loss
from speechssl.methods.moco_v3 import batch_contrast
from speechssl.methods.sgfree_decorr import decorrelation
from speechssl.methods.trip_roma import triplet_terms
from speechssl.methods.unigrad import unigrad_loss
from speechssl.methods.vibcreg import correlation_term, iterative_whitening
from speechssl.methods.vicreg import variance_covariance, vicreg_terms
from speechssl.methods.wmse import whiten

ORTHOGONAL = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
DUPLICATED = torch.tensor([[1.0, 1], [-1, -1]])


def z_of(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


# Barlow Twins


def barlow(one, two, off=0.01):
    return float(sum(barlow_loss(one, two, off)))


def test_barlow_by_hand():
    assert barlow(ORTHOGONAL, ORTHOGONAL) == pytest.approx(0, abs=1e-4)
    assert barlow(DUPLICATED, DUPLICATED) == pytest.approx(2 * 0.01, abs=1e-3)
    assert barlow(ORTHOGONAL, -ORTHOGONAL) == pytest.approx(4 * 2, abs=1e-3)
    assert barlow(ORTHOGONAL, ORTHOGONAL.flip(1)) == pytest.approx(2 + 2 * 0.01, abs=1e-3)
    assert barlow(torch.ones(4, 3), torch.ones(4, 3)) == pytest.approx(3)


def test_barlow_invariances():
    one = z_of(32, 6)
    two = z_of(32, 6, seed=1)
    value = barlow(one, two)
    scale = torch.rand(6) * 5 + 2
    shift = z_of(6, seed=2)
    assert barlow(one * scale + shift, two) == pytest.approx(value, rel=1e-3)
    order = torch.randperm(6)
    sign = torch.tensor([1, -1, 1, -1, 1, 1])
    assert barlow((one * sign)[:, order], (two * sign)[:, order]) == pytest.approx(value, rel=1e-4)


def test_standardised_is_torchs_batch_norm():
    x = 3 * z_of(16, 5) + 2
    torch.testing.assert_close(
        standardised(x), F.batch_norm(x, None, None, training=True), atol=1e-5, rtol=1e-4
    )


# VICReg, VIbCReg


def total(one, two):
    invariance, variance, covariance = vicreg_terms(one, two)
    return float(25 * invariance + 25 * variance + covariance)


def test_vicreg_by_hand():
    constant = torch.ones(8, 4)
    assert total(constant, constant) == pytest.approx(24.75)
    assert float(vicreg_terms(constant, constant)[1]) == pytest.approx(0.99)
    assert float(vicreg_terms(DUPLICATED, DUPLICATED)[2]) == pytest.approx(8)
    pattern = ORTHOGONAL
    assert total(pattern, pattern) == pytest.approx(0, abs=1e-5)


def test_vicreg_sees_scale_and_not_shift():
    one = z_of(16, 4)
    two = z_of(16, 4, seed=1)
    assert total(one + 3, two + 3) == pytest.approx(total(one, two), rel=1e-4)
    assert total(2 * one, 2 * two) != pytest.approx(total(one, two), rel=1e-2)


def test_a_constant_embedding_is_a_stationary_point_of_the_variance():
    z = torch.ones(8, 4, requires_grad=True)
    variance_covariance(z)[0].backward()
    assert torch.equal(z.grad, torch.zeros(8, 4))


def test_vibcregs_covariance_by_hand_and_without_scale():
    assert float(correlation_term(DUPLICATED)) == pytest.approx(0.5)
    z = z_of(32, 5)
    assert float(correlation_term(z * torch.arange(1, 6))) == pytest.approx(
        float(correlation_term(z)), rel=1e-4
    )


def test_iterative_whitening_whitens():
    w = iterative_whitening(
        z_of(256, 4) * torch.tensor([1.0, 2, 1, 0.7]) + 3, iterations=12, eps=0.0
    )
    torch.testing.assert_close(w.T @ w / len(w), torch.eye(4), atol=5e-3, rtol=0)


# W-MSE


@pytest.mark.parametrize("symmetric", [False, True])
def test_whitening_gives_the_identity(symmetric):
    z = z_of(64, 8, dtype=torch.float64) @ z_of(8, 8, seed=1, dtype=torch.float64)
    w = whiten(z, symmetric=symmetric)
    torch.testing.assert_close(
        torch.cov(w.T), torch.eye(8, dtype=torch.float64), atol=1e-10, rtol=0
    )


def test_cholesky_whitening_ignores_lower_triangular_maps_and_turns_with_others():
    z = z_of(64, 5, dtype=torch.float64)
    lower = torch.tril(z_of(5, 5, seed=1, dtype=torch.float64))
    lower.diagonal().abs_().add_(0.5)
    torch.testing.assert_close(whiten(z @ lower.T + 2), whiten(z), atol=1e-8, rtol=0)
    general = whiten(z @ z_of(5, 5, seed=2, dtype=torch.float64).T)
    rotation = torch.linalg.lstsq(whiten(z), general).solution
    torch.testing.assert_close(
        rotation.T @ rotation, torch.eye(5, dtype=torch.float64), atol=1e-8, rtol=0
    )
    torch.testing.assert_close(whiten(z) @ rotation, general, atol=1e-8, rtol=0)


def test_too_few_samples_are_an_error_unless_shrunk():
    with pytest.raises(UserError, match="wmse: 4 samples in 8 dimensions"):
        whiten(z_of(4, 8))
    assert whiten(z_of(4, 8), eps=1e-3).isfinite().all()


# DimCL


def test_dimcl_by_hand():
    big = ORTHOGONAL.repeat(250, 1)  # so that the norm's epsilon does not show
    assert float(dimension_contrast(big, big)) == pytest.approx(
        math.log(1 + 2 * math.exp(-10)), abs=1e-6
    )
    duplicated = DUPLICATED.repeat(500, 1)
    assert float(dimension_contrast(duplicated, duplicated)) == pytest.approx(math.log(3), abs=1e-5)


def test_a_dimension_without_variance_is_harmless():
    z = torch.cat([z_of(8, 3), torch.ones(8, 1)], 1).requires_grad_()
    loss = dimension_contrast(z, z.detach() + 0.1 * z_of(8, 4, seed=1))
    loss.backward()
    assert loss.isfinite() and z.grad.isfinite().all()


# Contrastive references


def test_moco_by_hand():
    eye = torch.eye(4)
    value = moco_loss(eye[:1], eye[:1], eye[1:], 0.2)
    assert float(value) == pytest.approx(math.log(1 + 3 * math.exp(-5)), abs=1e-6)
    assert float(value) == pytest.approx(0.020012, abs=1e-6)


def test_a_queue_of_the_anchor_itself():
    q = F.normalize(z_of(5, 4), dim=1)
    value = moco_loss(q, q, q[:1].repeat(3, 1), 0.2)
    assert value.isfinite()
    same = moco_loss(q[:1], q[:1], q[:1].repeat(3, 1), 0.2)
    assert float(same) == pytest.approx(math.log(4), abs=1e-5)


def test_moco_v3_is_a_cross_entropy_over_the_batch():
    q, k = (F.normalize(z_of(6, 4, seed=s), dim=1) for s in (0, 1))
    want = 2 * 0.2 * F.cross_entropy(q @ k.T / 0.2, torch.arange(6))
    torch.testing.assert_close(batch_contrast(q, k, 0.2), want)
    joined = torch.cat([k, F.normalize(z_of(6, 4, seed=2), dim=1)])
    second = batch_contrast(q, joined.roll(6, 0), 0.2, first=6)
    want = 0.4 * F.cross_entropy(q @ joined.roll(6, 0).T / 0.2, torch.arange(6) + 6)
    torch.testing.assert_close(second, want)


def test_trip_roma_by_hand():
    collapsed = torch.ones(4, 3)
    hinge, soft = triplet_terms(collapsed, collapsed)
    assert float(hinge) == pytest.approx(1, abs=1e-6) and float(soft) == pytest.approx(
        math.log(2), abs=1e-6
    )
    assert float(hinge + 8 * soft) == pytest.approx(6.545177, abs=1e-5)
    pairs = torch.eye(2)
    hinge, soft = triplet_terms(pairs, pairs)
    assert float(hinge) == 0.0
    assert float(soft) == pytest.approx(0.126928, abs=1e-6)
    assert float(hinge + 8 * soft) == pytest.approx(1.015424, abs=1e-5)


def test_trip_roma_ignores_a_rotation():
    one = z_of(6, 5)
    two = z_of(6, 5, seed=1)
    q, _ = torch.linalg.qr(z_of(5, 5, seed=2))
    for a, b in zip(triplet_terms(one, two), triplet_terms(one @ q, two @ q), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


# UniGrad


def test_unigrad_by_hand():
    z = F.normalize(z_of(5, 8), dim=1)
    assert float(unigrad_loss(z, z, torch.eye(8) / 8, 100.0)) == pytest.approx(5.25, abs=1e-5)
    one = torch.zeros(4, 8)
    one[:, 0] = 1
    assert float(unigrad_loss(one, one, one.T @ one / 4, 10.0)) == pytest.approx(-1 + 5, abs=1e-6)


def test_unigrads_gradient_is_the_closed_form():
    z = F.normalize(z_of(5, 6), dim=1).requires_grad_()
    t = F.normalize(z_of(5, 6, seed=1), dim=1)
    f = torch.cov(z_of(6, 32, seed=2))
    unigrad_loss(z, t, f, 3.0).backward()
    torch.testing.assert_close(z.grad * len(z), -t + 3.0 * z.detach() @ f, atol=1e-6, rtol=1e-5)


# Class collisions


def test_all_weights_one_are_moco():
    q, k = (F.normalize(z_of(6, 4, seed=s), dim=1) for s in (0, 1))
    queue = F.normalize(z_of(20, 4, seed=2), dim=1)
    plain = moco_loss(q, k, queue, 0.1)
    torch.testing.assert_close(moco_loss(q, k, queue, 0.1, torch.ones(6, 20)), plain)
    torch.testing.assert_close(
        moco_loss(q, k, queue, 0.1, collision_weights(q, queue, 1.1, False)), plain
    )


def test_a_copy_of_the_anchor_in_the_queue_is_left_out():
    q = F.normalize(z_of(1, 4), dim=1)
    queue = F.normalize(z_of(20, 4, seed=2), dim=1)
    queue = queue[(q @ queue.T)[0] < 0.9]
    with_copy = torch.cat([queue, q])
    weights = collision_weights(q, with_copy, 0.9, False)
    torch.testing.assert_close(
        moco_loss(q, q, with_copy, 0.1, weights), moco_loss(q, q, queue, 0.1)
    )
    assert not collision_weights(q.requires_grad_(), with_copy, 0.9, True).requires_grad


def test_a_query_whose_keys_are_all_left_out_has_no_loss_and_no_gradient():
    query = F.normalize(z_of(3, 4), dim=1).requires_grad_()
    queue = F.normalize(z_of(20, 4, seed=2), dim=1)
    weights = torch.ones(3, 20)
    weights[0] = 0
    loss = moco_loss(query, query.detach(), queue, 0.1, weights)
    loss.backward()
    others = moco_loss(query[1:], query[1:].detach(), queue, 0.1)
    torch.testing.assert_close(loss, others * 2 / 3)
    assert (query.grad[0] == 0).all() and query.grad[1:].abs().sum() > 0


def test_reweighting_keeps_the_mean_at_one():
    q = F.normalize(z_of(6, 4), dim=1)
    queue = F.normalize(z_of(50, 4, seed=2), dim=1)
    weights = collision_weights(q, queue, 0.7, True)
    kept = weights > 0
    torch.testing.assert_close(weights.sum(1), kept.sum(1).float())
    assert ((q @ queue.T)[kept] <= 0.7).all()


def test_tight_clusters_are_sharper():
    centroids = torch.eye(2)
    loose = F.normalize(centroids[0] + 0.5 * z_of(50, 2), dim=1)
    tight = F.normalize(centroids[1] + 0.05 * z_of(50, 2), dim=1)
    labels = torch.arange(2).repeat_interleave(50)
    tau = concentrations(torch.cat([loose, tight]), centroids, labels, 0.1)
    assert tau[0] > 2 * tau[1] and tau.mean() == pytest.approx(0.1, rel=0.2)


# Decorrelation in place of the stop-gradient


def test_decorrelation_by_hand():
    whitened = ORTHOGONAL * math.sqrt(3 / 4)
    assert float(decorrelation(whitened)) == pytest.approx(0, abs=1e-6)
    assert float(decorrelation(torch.ones(5, 3))) == pytest.approx(3)
