"""Waveforms as features: samples as they are, or normalised as transformers' feature extractor does."""

import numpy as np
import pytest
import torch
from builders import noises

from speechssl.errors import UserError
from speechssl.features.waveform import Waveform


def test_samples_pass_and_padding_is_zero():
    waves = noises(2, 100) + 0.3
    features, counts = Waveform()(waves, torch.tensor([100, 40]))
    assert features.shape == (2, 100, 1) and counts.tolist() == [100, 40]
    assert torch.equal(features[0, :, 0], waves[0]) and torch.equal(
        features[1, :40, 0], waves[1, :40]
    )
    assert not features[1, 40:].any()


def test_an_utterance_is_normalised_over_its_own_samples():
    waves = 0.2 * noises(2, 500) + 0.3
    features, _ = Waveform(normalise="utterance")(waves, torch.tensor([500, 120]))
    for row, count in ((0, 500), (1, 120)):
        x = waves[row, :count].double().numpy()
        want = (x - x.mean()) / np.sqrt(x.var() + 1e-7)  # Wav2Vec2FeatureExtractor
        np.testing.assert_allclose(features[row, :count, 0], want, atol=1e-4)
    assert not features[1, 120:].any()


def test_a_rate_that_cannot_be_is_refused():
    with pytest.raises(UserError, match="sample_rate"):
        Waveform(sample_rate=0)
