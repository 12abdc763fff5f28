"""The x-vector encoder against SpeechBrain's module, with the same weights."""

import pytest
import torch

from speechssl.encoders.xvector import XVector
from speechssl.errors import UserError


@pytest.fixture(scope="module")
def pair():
    from speechbrain.lobes.models.Xvector import Xvector as Reference

    torch.manual_seed(0)
    reference = Reference(tdnn_channels=[16, 16, 16, 16, 24], lin_neurons=10, in_channels=20)
    ours = XVector(20, channels=[16, 16, 16, 16, 24], embedding_dim=10)
    ours.load_state_dict(reference.state_dict())
    reference.blocks[-2].eps = 0.0  # without the noise on the means, and the floor
    return ours, reference


def test_the_weights_have_the_same_names_both_ways(pair):
    ours, reference = pair
    assert set(ours.state_dict()) == set(reference.state_dict())


def test_training_and_evaluation_give_the_same_embeddings_and_gradients(pair):
    ours, reference = pair
    x = torch.randn(4, 50, 20)
    for mode in (True, False):
        got = ours.train(mode)(x)
        want = reference.train(mode)(x)[:, 0]
        torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-4)
    got = torch.autograd.grad(ours.train()(x).square().sum(), ours.blocks[0].conv.weight)
    want = torch.autograd.grad(reference.train()(x).square().sum(), reference.blocks[0].conv.weight)
    torch.testing.assert_close(got, want, atol=1e-3, rtol=1e-3)


def test_the_default_sizes_are_speechbrains():
    from speechbrain.lobes.models.Xvector import Xvector as Reference

    want = {name: value.shape for name, value in Reference(in_channels=24).state_dict().items()}
    got = {name: value.shape for name, value in XVector(24).state_dict().items()}
    assert got == want


@pytest.mark.parametrize(
    "settings, reason",
    [
        ({"channels": [8, 8]}, "as many of each"),
        ({"kernel_sizes": [5, 3, 3, 2, 1]}, "odd"),
        ({"dilations": [1, 2, 3, 0, 1]}, "between 1"),
    ],
)
def test_sizes_that_do_not_fit_are_one_line(settings, reason):
    with pytest.raises(UserError, match=reason):
        XVector(20, **settings)
