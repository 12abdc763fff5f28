"""ResNet speaker encoder, channels last.

With pre-activated blocks (the default), parameter names, shapes and outputs are those
of `speechbrain.lobes.models.ResNet.ResNet` (after Rouvier's), whose channels are given
by `channels`; by default they double from stage to stage. With basic blocks it is the
ResNet34 of He et al. 2016; the light ResNet34 of Cho et al. 2022 is `width: 16,
block_type: basic, se_stages: 0, pooling: statistics, pooled_norm: false,
embedding_norm: false`. In a padded batch every
convolution sees zeros behind an utterance's end, as if the utterance stood alone.

Maps are (B, F, M, C): batch, frames, frequencies, channels.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from speechssl.encoders.resnet_blocks import BLOCKS, EXPANSIONS, convolve
from speechssl.encoders.sizes import check_at_least_one
from speechssl.errors import UserError
from speechssl.interfaces import Encoder, Stage
from speechssl.nn.batch_norm import normalise
from speechssl.nn.frames import Frames
from speechssl.nn.pooling import statistics, unbiased_statistics
from speechssl.nn.products import linear

__all__ = ["PART", "ResNet"]

_MIN_VARIANCE = 1e-5
_STRIDES = (1, 2, 2, 2)
_TOTAL_STRIDE = 8


MAX_BLOCKS = 200
"""Blocks of a stage, far beyond any use: a model folder may be somebody else's."""


class ResNet(Encoder):
    """ResNet encoder over time and frequency, to one embedding an utterance.

    Args:
        input_dim: M, features of a frame.
        width: channels of the first stage, if `channels` does not say.
        blocks: blocks in each of the four stages ([3, 4, 6, 3] is ResNet34).
        channels: channels of each stage; none: `width` x (1, 2, 4, 8).
        embedding_dim: D, size of an embedding.
        block_type: pre-activated blocks of three convolutions, basic ones of two, or bottlenecks of
            three whose output has four times the channels (ResNet50 and deeper).
        se_stages: how many stages, from the first on, have squeeze and excitation
            (SpeechBrain: 2).
        attention_channels: bottleneck of attention.
        pooling: mean and deviation under attention, plain, or plain with the unbiased deviation
            (wespeaker's TSTP).
        added_variance: added to the unbiased variance before the root (wespeaker: 1e-7,
            3D-Speaker: 1e-8).
        pooled_norm: BatchNorm on the pooled statistics, before the linear layer.
        embedding_norm: BatchNorm after the linear layer. Without it the embedding is the
            linear layer's output, as Cho et al. 2022 extract it; their BatchNorm is then
            the head's (``method.input_batchnorm``).

    Raises:
        UserError: there are not four stages.
    """

    RENAMED: ClassVar[dict[str, str]] = {
        "embedding": "embedding_dim",
        "block": "block_type",
        "squeeze_excitation": "se_stages",
        "attention": "attention_channels",
    }

    def __init__(
        self,
        input_dim: int,
        *,
        width: int = 32,
        blocks: list[int] = [3, 4, 6, 3],  # noqa: B006 (read only)
        channels: list[int] | None = None,
        embedding_dim: int = 256,
        block_type: Literal["preactivated", "basic", "bottleneck"] = "preactivated",
        se_stages: int = 2,
        attention_channels: int = 128,
        pooling: Literal["attentive", "statistics", "unbiased"] = "attentive",
        added_variance: float = 1e-7,
        pooled_norm: bool = True,
        embedding_norm: bool = True,
    ) -> None:
        super().__init__()
        check_at_least_one(
            "resnet",
            width=width,
            embedding_dim=embedding_dim,
            attention_channels=attention_channels,
        )
        if channels is None:
            channels = [width, 2 * width, 4 * width, 8 * width]
        if len(blocks) != 4 or len(channels) != 4:
            raise UserError(
                f"resnet: blocks {blocks} and channels {channels}; give one of each for all 4"
                " stages"
            )
        if min(blocks) < 1 or max(blocks) > MAX_BLOCKS:
            raise UserError(f"resnet: blocks {blocks} must be between 1 and {MAX_BLOCKS}")
        if min(channels) < 1:
            raise UserError(f"resnet: channels {channels} must be at least 1")
        self.embedding_dim = embedding_dim
        expansion = EXPANSIONS[block_type]
        self.channels = [expansion * width for width in channels]
        self.pooling = pooling
        self.added_variance = added_variance
        self.conv1 = nn.Conv2d(1, channels[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels[0])
        stages = _stages(block_type, blocks, channels, se_stages)
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        frequencies = -(-input_dim // _TOTAL_STRIDE)  # rounded up
        pooled_channels = self.channels[-1] * frequencies
        self.norm_stats: nn.Module = nn.Identity()
        if pooled_norm:
            self.norm_stats = nn.BatchNorm1d(2 * pooled_channels)
        self.attention: Attention | None = None
        if pooling == "attentive":
            self.attention = Attention(pooled_channels, attention_channels)
        self.fc_embed = nn.Linear(2 * pooled_channels, embedding_dim)
        self.norm_embed: nn.Module = nn.Identity()
        if embedding_norm:
            self.norm_embed = nn.BatchNorm1d(embedding_dim)
        self._initialise_convolutions()

    def _initialise_convolutions(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def frame_layers(self) -> dict[str, nn.Module]:
        """Return the last block of each stage; it gives maps (B, F, M, C) and `Frames`."""
        return {
            "layer1": self.layer1[-1],
            "layer2": self.layer2[-1],
            "layer3": self.layer3[-1],
            "layer4": self.layer4[-1],
        }

    def stages(self) -> list[Stage]:
        """Return the four stages, the first with the convolution before it, the last with pooling."""
        widths = self.channels
        top = ["layer4", "norm_stats", "fc_embed", "norm_embed"]
        if self.attention is not None:
            top.append("attention")
        return [
            Stage(self._run_first, ("conv1", "bn1", "layer1"), widths[0]),
            Stage(partial(self._run_layer, 1), ("layer2",), widths[1]),
            Stage(partial(self._run_layer, 2), ("layer3",), widths[2]),
            Stage(self._run_top, tuple(top), self.embedding_dim),
        ]

    def _layers(self) -> tuple[nn.ModuleList, ...]:
        return self.layer1, self.layer2, self.layer3, self.layer4

    def _run_first(self, features: Tensor) -> Tensor:
        """Return the maps (B, F, M, C) of the first stage."""
        return self._run_layer(0, self._begin(features, Frames.of(features, None)))

    def _run_layer(self, index: int, maps: Tensor) -> Tensor:
        """Run one of the four stages on maps (B, F, M, C)."""
        return self._run_blocks(index, maps, Frames.of(maps, None))[0]

    def _run_top(self, maps: Tensor) -> Tensor:
        """Return embeddings (B, D) of the third stage's maps (B, F, M, C)."""
        return self._embed(*self._run_blocks(3, maps, Frames.of(maps, None)))

    def _begin(self, features: Tensor, frames: Frames) -> Tensor:
        maps = frames.zero_padding(features)[:, :, :, None]
        return normalise(self.bn1, convolve(self.conv1, maps), frames.mask, relu=True)

    def _run_blocks(self, index: int, maps: Tensor, frames: Frames) -> tuple[Tensor, Frames]:
        for block in self._layers()[index]:
            maps, frames = block(maps, frames)
        return maps, frames

    def _embed(self, maps: Tensor, frames: Frames) -> Tensor:
        # channels before frequencies, as the weights have them
        x = maps.transpose(2, 3).flatten(2)
        if self.pooling == "unbiased":
            pooled = unbiased_statistics(x, frames, added_variance=self.added_variance)
        elif self.attention is None:
            pooled = statistics(x, frames, min_variance=_MIN_VARIANCE)
        else:
            pooled = self.attention(x, frames)
        embeddings: Tensor = self.norm_embed(self.fc_embed(self.norm_stats(pooled)))
        return embeddings

    def affine_layers(self) -> dict[str, nn.Module]:
        """Return the linear layer, and the BatchNorms before and after it where there are any."""
        layers = {
            "norm_stats": self.norm_stats,
            "fc_embed": self.fc_embed,
            "norm_embed": self.norm_embed,
        }
        return {k: layer for k, layer in layers.items() if not isinstance(layer, nn.Identity)}

    def forward(self, features: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return embeddings (B, D) of features (B, F, M); see `Encoder.forward`."""
        frames = Frames.of(features, lengths)
        maps = self._begin(features, frames)
        for index in range(len(self._layers())):
            maps, frames = self._run_blocks(index, maps, frames)
        return self._embed(maps, frames)


def _stages(
    block_type: str, blocks: list[int], channels: list[int], se_stages: int
) -> list[nn.ModuleList]:
    """Build the four stages; the first block of each changes the channels and strides.

    Args:
        block_type: a key of `BLOCKS`.
        blocks: (4,) blocks of each stage.
        channels: (4,) channels of each stage; the first one's are those of the input.
        se_stages: how many stages, from the first on, have squeeze and excitation.
    """
    kind = BLOCKS[block_type]
    expansion = EXPANSIONS[block_type]
    stages = []
    in_channels = channels[0]
    for index, out_channels in enumerate(channels):
        has_gates = index < se_stages
        stage = nn.ModuleList()
        stage.append(kind(in_channels, out_channels, _STRIDES[index], has_gates))
        for _ in range(blocks[index] - 1):
            stage.append(kind(expansion * out_channels, out_channels, 1, has_gates))
        stages.append(stage)
        in_channels = expansion * out_channels
    return stages


class Attention(nn.Sequential):
    """Attentive statistics pooling (Okabe et al. 2018), under SpeechBrain's names.

    Args:
        channels: C.
        bottleneck: channels of the layer between.
    """

    def __init__(self, channels: int, bottleneck: int) -> None:
        squeeze = nn.Conv1d(channels, bottleneck, 1)
        expand = nn.Conv1d(bottleneck, channels, 1)
        super().__init__(squeeze, nn.ReLU(), nn.BatchNorm1d(bottleneck), expand)

    def forward(self, x: Tensor, frames: Frames) -> Tensor:  # type: ignore[override]
        """Pool `x` (B, F, C) to mean and standard deviation (B, 2C), float32."""
        squeeze, _, norm, expand = cast(
            "tuple[nn.Conv1d, nn.ReLU, nn.BatchNorm1d, nn.Conv1d]", tuple(self)
        )
        hidden = torch.relu(linear(x, squeeze.weight.flatten(1), squeeze.bias))
        hidden = normalise(norm, hidden, frames.mask if self.training else None)
        logits = linear(hidden, expand.weight.flatten(1), expand.bias)
        return statistics(x, frames, logits, min_variance=_MIN_VARIANCE)


PART = ResNet
