"""Multi-layer perceptrons: projectors and predictors."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


def mlp(
    sizes: Sequence[int],
    batchnorm: bool = True,
    output_norm: bool = False,
    output_bias: bool = True,
) -> nn.Sequential:
    """Linear layers with BatchNorm and ReLU between them.

    Args:
        sizes: of the input, of what lies between, of the output.
        output_norm: BatchNorm without weights after the last layer (SimSiam).
        output_bias: of the last layer.
    """
    layers: list[nn.Module] = []
    for i, (size, following) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        last = i == len(sizes) - 2
        layers.append(
            nn.Linear(
                size, following, bias=output_bias and not output_norm if last else not batchnorm
            )
        )
        if not last:
            layers += [nn.BatchNorm1d(following)] * batchnorm + [nn.ReLU()]
    if output_norm:
        layers.append(nn.BatchNorm1d(sizes[-1], affine=False))
    return nn.Sequential(*layers)
