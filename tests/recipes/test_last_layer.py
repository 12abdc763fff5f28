"""egs/real/last_layer.py: the closed form does what its docstring says."""

import numpy as np
import pytest
import torch
from builders import load_script

from speechssl.embed.embedder import Embedder
from speechssl.embed.layers import POOLED
from speechssl.model import Model

last_layer = load_script("egs/real/last_layer.py")


@pytest.fixture
def covariances():
    rng = np.random.default_rng(0)
    within = np.cov(rng.normal(size=(20, 60)) * np.arange(1, 21)[:, None])
    return within, within + np.cov(rng.normal(size=(20, 60)))


def test_power_0_makes_the_within_covariance_the_identity(covariances):
    """And the total one diagonal, with the generalised eigenvalues of (T, W), largest first."""
    from scipy.linalg import eigh

    within, total = covariances
    weight = last_layer.discriminant(within, total, 8, shrinkage=0.0, power=0.0)
    np.testing.assert_allclose(weight @ within @ weight.T, np.eye(8), atol=1e-9)
    values = eigh(total, within, eigvals_only=True)[::-1][:8]
    np.testing.assert_allclose(weight @ total @ weight.T, np.diag(values), atol=1e-9)


def test_power_1_makes_the_total_covariance_the_identity(covariances):
    within, total = covariances
    weight = last_layer.discriminant(within, total, 20, shrinkage=0.0, power=1.0)
    np.testing.assert_allclose(weight @ total @ weight.T, np.eye(20), atol=1e-9)


@pytest.mark.parametrize("early", [False, True])
def test_the_layer_maps_the_standardised_statistics(early):
    torch.manual_seed(0)
    model = Model({"n_mels": 20}, {"name": "ecapa", "width": 16, "early_statistics": early}).eval()
    waves = 0.1 * torch.randn(4, 8000)
    statistics = Embedder(model, layer=POOLED).encode_batch(waves).numpy().astype(np.float64)
    rng = np.random.default_rng(1)
    mean = rng.normal(size=statistics.shape[1])
    deviation = rng.uniform(0.5, 2.0, size=statistics.shape[1])
    weight = rng.normal(size=(model.dim, statistics.shape[1]))
    last_layer.set_last_layer(model, mean, deviation, weight)
    want = ((statistics - mean) / deviation) @ weight.T
    got = Embedder(model).encode_batch(waves).numpy()
    ratio = np.linalg.norm(got) / np.linalg.norm(want)
    np.testing.assert_allclose(got, want * ratio, rtol=1e-3, atol=1e-3)


def test_two_maps_beside_each_other_keep_their_cosines():
    rng = np.random.default_rng(2)
    statistics = rng.normal(size=(200, 12))
    one, two = rng.normal(size=(4, 12)), 5.0 * rng.normal(size=(3, 12))
    outputs = [statistics @ weight.T for weight in (one, two)]
    lengths = [np.sqrt(np.square(values).sum(1).mean()) for values in outputs]
    want = np.concatenate([outputs[0] / lengths[0], 1.5 * outputs[1] / lengths[1]], axis=1)
    got = statistics @ last_layer.beside(statistics, one, two, 1.5, 7).T
    np.testing.assert_allclose(got @ got.T, want @ want.T, atol=1e-9)
    fewer = statistics @ last_layer.beside(statistics, one, two, 1.5, 3).T
    values = np.linalg.eigvalsh(np.cov(want.T))[::-1][:3]
    np.testing.assert_allclose(np.cov(fewer.T), np.diag(values), atol=1e-9)


def test_the_trained_map_is_the_encoders_layers():
    torch.manual_seed(0)
    model = Model({"n_mels": 20}, {"name": "ecapa", "width": 16}).eval()
    norm = model.encoder.asp_bn.norm
    torch.nn.init.uniform_(norm.running_var, 0.5, 1.5)
    torch.nn.init.normal_(norm.running_mean)
    waves = 0.1 * torch.randn(3, 8000)
    statistics = Embedder(model, layer=POOLED).encode_batch(waves).numpy().astype(np.float64)
    deviation = np.random.default_rng(3).uniform(0.5, 2.0, size=statistics.shape[1])
    got = (statistics / deviation) @ last_layer.trained_map(model, deviation).T
    want = Embedder(model).encode_batch(waves).numpy()
    np.testing.assert_allclose(got - got[0], want - want[0], rtol=1e-3, atol=1e-4)
