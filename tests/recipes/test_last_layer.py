"""egs/real/last_layer.py: the closed form does what its docstring says."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from speechssl.embed.embedder import Embedder
from speechssl.embed.layers import POOLED
from speechssl.model import Model

SCRIPT = Path(__file__).parents[2] / "egs" / "real" / "last_layer.py"
spec = importlib.util.spec_from_file_location("last_layer", SCRIPT)
last_layer = importlib.util.module_from_spec(spec)
spec.loader.exec_module(last_layer)


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
