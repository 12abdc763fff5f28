"""Products in 8 bits: exact where 8 bits are, close elsewhere, and the same in every batch."""

from __future__ import annotations

import pytest
import torch

from speechssl.encoders.ecapa import ECAPA
from speechssl.encoders.resnet import ResNet
from speechssl.errors import UserError
from speechssl.nn.convolution import Convolution
from speechssl.nn.int8 import Int8Product, check_int8, with_int8_products

try:
    check_int8(torch.device("cpu"))
except UserError as error:
    pytest.skip(str(error), allow_module_level=True)


@torch.no_grad()
def test_numbers_that_8_bits_hold_are_multiplied_exactly() -> None:
    """Whole numbers up to 127, where each row's largest is 127, have the scale 1."""
    layer = Convolution(64, 48)
    whole = torch.randint(-127, 128, (48, 64)).float()
    whole[:, 5] = 127
    layer.conv.weight.copy_(whole[:, :, None])
    x = torch.randint(-127, 128, (3, 7, 64)).float()
    x[:, :, 9] = -127
    expected = x @ whole.T + layer.conv.bias
    torch.testing.assert_close(Int8Product(layer)(x), expected, rtol=0, atol=1e-2)
    torch.testing.assert_close(Int8Product(layer)(x, relu=True), expected.relu(), rtol=0, atol=1e-2)


@torch.no_grad()
def test_the_error_is_that_of_rounding_to_127_steps() -> None:
    """Each of 512 terms is off by at most half a step of either factor."""
    layer = Convolution(512, 256)
    x = torch.randn(1, 40, 512)
    weight = layer.conv.weight[:, :, 0].double()
    step_of_x = x.double().abs().amax(2, keepdim=True) / 127
    step_of_weight = weight.abs().amax(1, keepdim=True) / 127
    bound = step_of_x / 2 * (weight.abs() + step_of_weight / 2).sum(1)
    bound = bound + (step_of_weight[:, 0] / 2) * x.double().abs().sum(2, keepdim=True)
    expected = x.double() @ weight.T + layer.conv.bias
    difference = (Int8Product(layer)(x) - expected).abs()
    assert (difference <= bound + 1e-4).all()
    assert difference.max() > 1e-4  # it really is in 8 bits


@torch.no_grad()
def test_a_frame_has_the_same_bits_alone_and_beside_louder_ones() -> None:
    product = Int8Product(Convolution(256, 256))
    x = torch.randn(2, 900, 256) * torch.logspace(-3, 3, 900)[:, None]
    assert torch.equal(product(x)[1, 3:5], product(x[1, 3:5]))
    assert torch.isfinite(product(torch.zeros(1, 4, 256))).all()


@torch.no_grad()
def test_an_encoder_in_8_bits_is_close_and_the_original_untouched() -> None:
    encoder = ECAPA(80, width=256).eval()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    rough = with_int8_products(encoder)
    features = torch.randn(4, 120, 80)
    cosine = torch.cosine_similarity(encoder(features), rough(features))
    assert cosine.min() > 0.99
    assert cosine.min() < 1.0
    kinds = [type(module) for module in rough.modules()]
    assert kinds.count(Int8Product) == 7  # two of each of three blocks, and the aggregation
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_wide_attention_keeps_its_own_layers() -> None:
    encoder = ECAPA(80, width=256, attention_channels=256, embedding_dim=256).eval()
    with torch.no_grad():
        assert with_int8_products(encoder)(torch.randn(2, 50, 80)).shape == (2, 256)


def test_an_encoder_without_large_products_is_refused() -> None:
    with pytest.raises(UserError, match="no large products"):
        with_int8_products(ResNet(80, width=8, blocks=[1, 1, 1, 1]))
