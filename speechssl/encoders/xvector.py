"""Plain TDNN with statistics pooling: the x-vector (Snyder et al. 2018).

Parameter names, shapes and outputs are those of `speechbrain.lobes.models.Xvector.Xvector`,
which adds noise of 1e-5 to the pooled means; here there is none. The embedding is that of the
first layer after pooling.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from speechssl.encoders.sizes import check_at_least_one, check_kernels
from speechssl.errors import UserError
from speechssl.interfaces import Encoder
from speechssl.nn.batch_norm import BatchNorm
from speechssl.nn.convolution import Convolution
from speechssl.nn.frames import Frames
from speechssl.nn.pooling import unbiased_statistics

__all__ = ["PART", "XVector"]

MAX_LAYERS = 100
"""Far beyond any use: a model folder may be somebody else's."""

_DEVIATION_FLOOR = 1e-5
"""Added to the pooled deviations, as SpeechBrain does."""


class XVector(Encoder):
    """x-vector encoder, to one embedding an utterance.

    Args:
        input_dim: M, features of a frame.
        channels: output channels of each TDNN layer.
        kernel_sizes: frames that each layer sees, odd.
        dilations: distance of these frames.
        embedding_dim: D, size of an embedding.

    Raises:
        UserError: the sizes do not fit together.
    """

    def __init__(
        self,
        input_dim: int,
        *,
        channels: list[int] = [512, 512, 512, 512, 1500],  # noqa: B006 (read only)
        kernel_sizes: list[int] = [5, 3, 3, 1, 1],  # noqa: B006
        dilations: list[int] = [1, 2, 3, 1, 1],  # noqa: B006
        embedding_dim: int = 512,
    ) -> None:
        super().__init__()
        _check_sizes(channels, kernel_sizes, dilations)
        check_at_least_one("xvector", embedding_dim=embedding_dim)
        self.embedding_dim = embedding_dim
        self.layer_count = len(channels)
        # One list of convolution, activation, norm, and so on: the names of the weights.
        self.blocks = nn.ModuleList()
        in_channels = input_dim
        for out_channels, kernel_size, dilation in zip(
            channels, kernel_sizes, dilations, strict=True
        ):
            self.blocks.append(Convolution(in_channels, out_channels, kernel_size, dilation))
            self.blocks.append(nn.LeakyReLU())
            self.blocks.append(FrameNorm(out_channels))
            in_channels = out_channels
        self.blocks.append(nn.Identity())  # where SpeechBrain pools
        self.blocks.append(Linear(2 * in_channels, embedding_dim))

    def frame_layers(self) -> dict[str, nn.Module]:
        """Return the BatchNorm that ends each layer; it gives (B, F, C)."""
        layers: dict[str, nn.Module] = {}
        for index in range(self.layer_count):
            layers[f"layer{index}"] = self.blocks[3 * index + 2]
        return layers

    def affine_layers(self) -> dict[str, nn.Module]:
        """Return the linear layer after pooling."""
        return {"linear": self.blocks[-1]}

    def forward(self, features: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return embeddings (B, D) of features (B, F, M); see `Encoder.forward`."""
        frames = Frames.of(features, lengths)
        x = frames.zero_padding(features)
        for index in range(self.layer_count):
            convolution = self.blocks[3 * index]
            activation = self.blocks[3 * index + 1]
            norm = self.blocks[3 * index + 2]
            x = norm(activation(convolution(x, frames)), frames)
        mean, deviation = unbiased_statistics(x, frames).chunk(2, 1)
        pooled = torch.cat([mean, deviation + _DEVIATION_FLOOR], 1)
        embeddings: Tensor = self.blocks[-1](pooled)
        return embeddings


def _check_sizes(channels: list[int], kernel_sizes: list[int], dilations: list[int]) -> None:
    """Raise UserError for sizes that do not fit together."""
    count = len(channels)
    if not 1 <= count <= MAX_LAYERS or len(kernel_sizes) != count or len(dilations) != count:
        raise UserError(
            f"xvector: {count} channels, {len(kernel_sizes)} kernel_sizes and {len(dilations)}"
            f" dilations; give as many of each, at most {MAX_LAYERS}"
        )
    check_kernels("xvector", kernel_sizes, dilations)
    if min(channels) < 1:
        raise UserError(f"xvector: channels {channels} must be at least 1")


class FrameNorm(BatchNorm):
    """BatchNorm over the valid frames."""

    def forward(self, x: Tensor, frames: Frames) -> Tensor:  # type: ignore[override]
        """Normalise `x` (B, F, C)."""
        return super().forward(x, frames.mask)


class Linear(nn.Module):
    """A linear layer under SpeechBrain's name `w`."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.w = nn.Linear(in_features, out_features)

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` (B, in_features) to (B, out_features)."""
        y: Tensor = self.w(x)
        return y


PART = XVector
