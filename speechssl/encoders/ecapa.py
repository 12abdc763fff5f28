"""ECAPA-TDNN (Desplanques et al. 2020, https://arxiv.org/abs/2005.07143), channels last.

Parameter names and shapes are those of `speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN`, and so are
the outputs: `load_state_dict` takes SpeechBrain's weights as they are, and the other way round.
Unlike there, the end of a padded utterance reflects its own last frames and never sees the padding.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from speechssl.errors import UserError
from speechssl.interfaces import Encoder
from speechssl.nn.batch_norm import BatchNorm
from speechssl.nn.convolution import TDNN, Convolution
from speechssl.nn.frames import Frames
from speechssl.nn.pooling import AttentiveStatistics, statistics

__all__ = ["ECAPA", "PART"]


class _Merge(torch.autograd.Function):
    """Concatenate groups of channels (each B, F, G); their gradients are contiguous, not strided
    slices.

    Batch norm's backward pass and sums are several times slower on rows that are far apart in
    memory.
    """

    @staticmethod
    def forward(ctx: Any, *groups: Tensor) -> Tensor:
        ctx.count = len(groups)
        return torch.cat(groups, 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        return _groups(gradient, ctx.count)


def _groups(x: Tensor, count: int) -> tuple[Tensor, ...]:
    """Split the channels of `x` (B, F, C) into contiguous groups (B, F, C / count)."""
    return x.unflatten(2, (count, -1)).movedim(2, 0).contiguous().unbind()


class Res2Net(nn.Module):
    """Channel groups in a chain of dilated TDNNs, each adding the previous group's output to its
    input.
    """

    def __init__(self, channels: int, scale: int, kernel: int, dilation: int) -> None:
        super().__init__()
        group = channels // scale
        self.scale = scale
        self.blocks = nn.ModuleList(TDNN(group, group, kernel, dilation) for _ in range(scale - 1))

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        groups = _groups(x, self.scale)
        outputs = [groups[0]]
        for index, (group, block) in enumerate(zip(groups[1:], self.blocks, strict=True)):
            outputs.append(block(group + outputs[-1] if index else group, frames))
        return torch.cat(outputs, 2) if torch.jit.is_tracing() else _Merge.apply(*outputs)


class SqueezeExcitation(nn.Module):
    """Channel gates from the mean over the valid frames."""

    def __init__(self, channels: int, bottleneck: int) -> None:
        super().__init__()
        self.conv1 = Convolution(channels, bottleneck)
        self.conv2 = Convolution(bottleneck, channels)

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        """Gates (B, 1, C) for `x` (B, F, C), in its type."""
        gates = torch.sigmoid(self.conv2(torch.relu(self.conv1(frames.mean(x)))))
        return gates[:, None].to(x.dtype)


class SERes2Net(nn.Module):
    """TDNN, Res2Net, TDNN, squeeze and excitation, with a residual connection around all."""

    def __init__(self, channels: int, scale: int, se: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.tdnn1 = TDNN(channels, channels)
        self.res2net_block = Res2Net(channels, scale, kernel, dilation)
        self.tdnn2 = TDNN(channels, channels)
        self.se_block = SqueezeExcitation(channels, se)

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        y = self.tdnn2(self.res2net_block(self.tdnn1(x, frames), frames), frames)
        return torch.addcmul(x, y, self.se_block(y, frames))


class ECAPA(Encoder):
    """ECAPA-TDNN encoder: frames of features to one embedding an utterance.

    `mels` is the number of features a frame. `width` channels run through the blocks and `mfa`
    (default 3 x `width`) come out of the feature aggregation; `kernels` (odd) and `dilations` have
    one entry for the first layer, one for each SE-Res2Net block and one for the aggregation.
    `scale` groups in a Res2Net, `se` and `attention` bottleneck channels. `pooling` is channel-wise
    attention (with the utterance's mean and deviation as `global_context`) or plain statistics.
    `dim` is the embedding's size.
    """

    def __init__(
        self,
        mels: int,
        *,
        width: int = 512,
        embedding: int = 192,
        kernels: list[int] = [5, 3, 3, 3, 1],  # noqa: B006 (read only)
        dilations: list[int] = [1, 2, 3, 4, 1],  # noqa: B006 (read only)
        scale: int = 8,
        se: int = 128,
        attention: int = 128,
        global_context: bool = True,
        mfa: int | None = None,
        pooling: Literal["attentive", "statistics"] = "attentive",
    ) -> None:
        super().__init__()
        mfa = 3 * width if mfa is None else mfa
        _check(width, scale, kernels, dilations)
        self.embedding_dim = embedding
        blocks: list[nn.Module] = [TDNN(mels, width, kernels[0], dilations[0])]
        for kernel, dilation in zip(kernels[1:-1], dilations[1:-1], strict=True):
            blocks.append(SERes2Net(width, scale, se, kernel, dilation))
        self.blocks = nn.ModuleList(blocks)
        self.mfa = TDNN(width * (len(blocks) - 1), mfa, kernels[-1], dilations[-1])
        self.asp = (
            AttentiveStatistics(mfa, attention, global_context) if pooling == "attentive" else None
        )
        self.asp_bn = BatchNorm(2 * mfa)
        self.fc = Convolution(2 * mfa, embedding)

    def frame_layers(self) -> dict[str, nn.Module]:
        """Return the blocks and the feature aggregation; each gives (B, F, C)."""
        layers: dict[str, nn.Module] = {}
        for number, block in enumerate(self.blocks):
            layers[f"block{number}"] = block
        layers["mfa"] = self.mfa
        return layers

    def affine_layers(self) -> dict[str, nn.Module]:
        """Return the batch norm of the pooled statistics and the last layer."""
        return {"asp_bn": self.asp_bn, "fc": self.fc}

    def forward(self, features: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Embed `features` (B, F, mels), of which `lengths` (B,) frames are valid (None: all): (B,
        D).
        """
        frames = Frames(features.shape[0], features.shape[1], lengths, features.device)
        if frames.mask is not None:
            features = features.masked_fill(~frames.mask[:, :, None], 0.0)
        x = self.blocks[0](features, frames)
        outputs = []
        for block in self.blocks[1:]:
            x = block(x, frames)
            outputs.append(x)
        x = self.mfa(torch.cat(outputs, 2), frames)
        pooled = statistics(x, frames) if self.asp is None else self.asp(x, frames)
        return self.fc(self.asp_bn(pooled))


def _check(width: int, scale: int, kernels: list[int], dilations: list[int]) -> None:
    """Raise UserError for sizes that do not fit together."""
    if width % scale:
        raise UserError(
            f"ecapa: width {width} is not a multiple of scale {scale}; choose one that is"
        )
    if len(kernels) != len(dilations) or len(kernels) < 3:
        raise UserError(
            f"ecapa: {len(kernels)} kernels and {len(dilations)} dilations; give as many of each,"
            " at least 3"
        )
    if any(kernel % 2 == 0 for kernel in kernels):
        raise UserError(f"ecapa: kernels {kernels} must be odd numbers")


PART = ECAPA
