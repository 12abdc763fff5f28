"""Layers of the perceptrons."""

from torch import nn

from speechssl.nn.mlp import mlp


def kinds(module: nn.Sequential) -> list[str]:
    return [type(layer).__name__ for layer in module]


def test_norms_and_rectifiers_are_between_the_layers() -> None:
    net = mlp([4, 5, 6, 3])
    between = ["Linear", "BatchNorm1d", "ReLU"]
    assert kinds(net) == [*between, *between, "Linear"]
    assert [layer.bias is None for layer in net if isinstance(layer, nn.Linear)] == [
        True,
        True,
        False,
    ]
    assert kinds(mlp([4, 3])) == ["Linear"]


def test_options_of_the_norms_and_the_last_layer() -> None:
    plain = mlp([4, 5, 3], batchnorm=False, output_bias=False)
    assert kinds(plain) == ["Linear", "ReLU", "Linear"]
    assert plain[0].bias is not None and plain[2].bias is None
    normed = mlp([4, 5, 3], output_norm=True)
    assert kinds(normed)[-2:] == ["Linear", "BatchNorm1d"]
    assert normed[-2].bias is None and normed[-1].weight is None
