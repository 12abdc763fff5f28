"""Multi-layer perceptrons: projectors and predictors."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

__all__ = ["mlp"]


def mlp(
    sizes: Sequence[int],
    batchnorm: bool = True,
    output_norm: bool = False,
    output_bias: bool = True,
) -> nn.Sequential:
    """Build linear layers with BatchNorm and ReLU between them.

    Args:
        sizes: sizes of the input, of the hidden layers, and of the output.
        batchnorm: BatchNorm after each hidden layer, which then has no bias.
        output_norm: BatchNorm without weights after the last layer (SimSiam).
        output_bias: bias of the last layer, unless it is normalised.

    Returns:
        A module from (N, sizes[0]) to (N, sizes[-1]).
    """
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes[:-1]):
        layers.append(nn.Linear(inputs, outputs, bias=not batchnorm))
        if batchnorm:
            layers.append(nn.BatchNorm1d(outputs))
        layers.append(nn.ReLU())
    layers.append(nn.Linear(sizes[-2], sizes[-1], bias=output_bias and not output_norm))
    if output_norm:
        layers.append(nn.BatchNorm1d(sizes[-1], affine=False))
    return nn.Sequential(*layers)
