"""ECAPA-TDNN (Desplanques et al. 2020, arXiv 2005.07143), channels last.

Parameter names and shapes are those of
`speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN`, and so are the outputs:
`load_state_dict` takes SpeechBrain's weights as they are, and the other way round.
Unlike there, the end of a padded utterance reflects its own last frames and never sees
the padding.
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from speechssl.encoders.sizes import check_at_least_one, check_kernels
from speechssl.errors import UserError
from speechssl.interfaces import Encoder, Stage
from speechssl.nn.band_shift import BandShift
from speechssl.nn.batch_norm import BatchNorm, NoNorm
from speechssl.nn.convolution import TDNN, Convolution
from speechssl.nn.frames import Frames
from speechssl.nn.pooling import AttentiveStatistics, TanhAttention, statistics
from speechssl.nn.recording import is_traced

__all__ = ["ECAPA", "PART"]

MAX_LAYERS = 100
"""Far beyond any use: a model folder may be somebody else's."""


class ECAPA(Encoder):
    """ECAPA-TDNN encoder: frames of features to one embedding an utterance.

    A first TDNN layer, SE-Res2Net blocks, the aggregation of all blocks (a TDNN layer
    on their concatenated channels), pooling, BatchNorm and a linear layer.

    Args:
        input_dim: M, features of a frame.
        width: channels of the blocks (512 or 1024 in the paper).
        embedding_dim: D, size of an embedding.
        kernel_sizes: frames that a kernel sees, odd: of the first layer, of each block,
            and of the aggregation.
        dilations: of the same layers, one for each kernel size.
        scale: groups of channels in a Res2Net.
        se_channels: bottleneck of squeeze and excitation.
        attention_channels: bottleneck of attention.
        global_context: let attention see the utterance's mean and deviation.
        mfa_channels: channels of the aggregation; none: 3 x `width`.
        mfa_norm: BatchNorm after the aggregation (wespeaker has none).
        pooling: mean and deviation under channel-wise attention, under wespeaker's attention
            (`nn.pooling.TanhAttention`), or plain.
        padding: what convolutions see beyond both ends of an utterance: its own frames
            reflected, or zeros (wespeaker).
        embedding_norm: BatchNorm after the linear layer, as in wespeaker's DINO recipe
            (not in the paper, nor in SpeechBrain).
        early_statistics: pool the features and the output of the first block as well (plain mean
            and deviation) and put them behind the pooled aggregation. The long-term spectrum then
            reaches the last layer whatever the blocks between make of it.
        band_shift: take out of the statistics of narrow-band recordings what those share
            (`nn.band_shift`); it is found after training, and does nothing before.

    Raises:
        UserError: sizes that do not fit together.
    """

    RENAMED: ClassVar[dict[str, str]] = {
        "embedding": "embedding_dim",
        "kernels": "kernel_sizes",
        "se": "se_channels",
        "attention": "attention_channels",
        "mfa": "mfa_channels",
    }

    def __init__(
        self,
        input_dim: int,
        *,
        width: int = 512,
        embedding_dim: int = 192,
        kernel_sizes: list[int] = [5, 3, 3, 3, 1],  # noqa: B006 (read only)
        dilations: list[int] = [1, 2, 3, 4, 1],  # noqa: B006 (read only)
        scale: int = 8,
        se_channels: int = 128,
        attention_channels: int = 128,
        global_context: bool = True,
        mfa_channels: int | None = None,
        mfa_norm: bool = True,
        pooling: Literal["attentive", "tanh", "statistics"] = "attentive",
        padding: Literal["reflect", "zeros"] = "reflect",
        embedding_norm: bool = False,
        early_statistics: bool = False,
        band_shift: bool = False,
    ) -> None:
        super().__init__()
        _check_sizes(width, scale, kernel_sizes, dilations)
        check_at_least_one(
            "ecapa",
            embedding_dim=embedding_dim,
            se_channels=se_channels,
            attention_channels=attention_channels,
            mfa_channels=mfa_channels,
        )
        if mfa_channels is None:
            mfa_channels = 3 * width
        self.embedding_dim = embedding_dim
        self.width = width
        self.blocks = nn.ModuleList()
        self.blocks.append(TDNN(input_dim, width, kernel_sizes[0], dilations[0]))
        for size, dilation in zip(kernel_sizes[1:-1], dilations[1:-1], strict=True):
            self.blocks.append(SERes2Net(width, scale, se_channels, size, dilation))
        aggregated = width * (len(self.blocks) - 1)
        self.mfa = TDNN(aggregated, mfa_channels, kernel_sizes[-1], dilations[-1])
        if not mfa_norm:
            self.mfa.norm = NoNorm()
        self.asp: AttentiveStatistics | TanhAttention | None = None
        if pooling == "tanh":
            self.asp = TanhAttention(mfa_channels, attention_channels, global_context)
        if pooling == "attentive":
            self.asp = AttentiveStatistics(mfa_channels, attention_channels, global_context)
        pooled_dim = 2 * mfa_channels
        if early_statistics:
            pooled_dim += 2 * (input_dim + width)
        self.early_statistics = early_statistics
        self.band_shift = BandShift(input_dim, pooled_dim) if band_shift else None
        self.asp_bn = BatchNorm(pooled_dim)
        self.fc = Convolution(pooled_dim, embedding_dim)
        self.fc_bn: nn.BatchNorm1d | None = None
        if embedding_norm:
            self.fc_bn = nn.BatchNorm1d(embedding_dim)
        for module in self.modules():
            if isinstance(module, Convolution):
                module.padding = padding

    def frame_layers(self) -> dict[str, nn.Module]:
        """Return the blocks and the aggregation; each gives (B, F, C)."""
        layers: dict[str, nn.Module] = {}
        for number, block in enumerate(self.blocks):
            layers[f"block{number}"] = block
        layers["mfa"] = self.mfa
        return layers

    def stages(self) -> list[Stage]:
        """Return the first layer, each block, and the aggregation with all behind it.

        From the second on, a stage's output holds those of all blocks so far.

        Raises:
            UserError: early statistics or the spectrum would have to pass through every stage.
        """
        if self.early_statistics or self.band_shift is not None:
            raise UserError(
                "ecapa: early_statistics and band_shift do not go with train.local_blocks"
            )
        width = self.width
        chain = [Stage(partial(self._run_block, 0), ("blocks.0",), width)]
        for number in range(1, len(self.blocks)):
            chain.append(Stage(partial(self._run_block, number), (f"blocks.{number}",), width))
        top = ["mfa", "asp_bn", "fc"]
        if self.fc_bn is not None:
            top.append("fc_bn")
        if self.asp is not None:
            top.append("asp")
        chain.append(Stage(self._run_top, tuple(top), self.embedding_dim))
        return chain

    def _run_block(self, number: int, x: Tensor) -> Tensor:
        """Run a block on the last channels of `x` (B, F, C), and put its output behind the others."""
        frames = Frames.of(x, None)
        block = self.blocks[number]
        if number < 2:
            only: Tensor = block(x, frames)
            return only
        return torch.cat([x, block(x[:, :, -self.width :], frames)], 2)

    def _run_top(self, x: Tensor) -> Tensor:
        """Return embeddings (B, D) of the outputs of all blocks (B, F, C)."""
        return self._embed(self._pool(x, Frames.of(x, None)))

    def _pool(self, block_outputs: Tensor, frames: Frames) -> Tensor:
        """Return the statistics (B, 2 x C) of the aggregation of all blocks (B, F, C)."""
        x = self.mfa(block_outputs, frames)
        return statistics(x, frames) if self.asp is None else self.asp(x, frames)

    def _embed(self, pooled: Tensor) -> Tensor:
        embeddings: Tensor = self.fc(self.asp_bn(pooled))
        return embeddings if self.fc_bn is None else self.fc_bn(embeddings)

    def affine_layers(self) -> dict[str, nn.Module]:
        """Return the BatchNorm of the pooled statistics, the linear layer, and its BatchNorm."""
        layers: dict[str, nn.Module] = {"asp_bn": self.asp_bn, "fc": self.fc}
        if self.fc_bn is not None:
            layers["fc_bn"] = self.fc_bn
        return layers

    def forward(self, features: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return embeddings (B, D) of features (B, F, M); see `Encoder.forward`."""
        frames = Frames.of(features, lengths)
        features = frames.zero_padding(features)
        first = self.blocks[0](features, frames)
        x = first
        block_outputs = []
        for block in self.blocks[1:]:
            x = block(x, frames)
            block_outputs.append(x)
        pooled = self._pool(torch.cat(block_outputs, 2), frames)
        if self.early_statistics:
            early = [statistics(features, frames), statistics(first, frames)]
            pooled = torch.cat([pooled, *early], 1)
        if self.band_shift is not None:
            pooled = self.band_shift(pooled, features, frames)
        return self._embed(pooled)


def _check_sizes(width: int, scale: int, kernel_sizes: list[int], dilations: list[int]) -> None:
    """Raise UserError for sizes that do not fit together."""
    check_at_least_one("ecapa", width=width, scale=scale)
    if width % scale:
        raise UserError(
            f"ecapa: width {width} is not a multiple of scale {scale}; choose one that is"
        )
    if len(kernel_sizes) != len(dilations) or len(kernel_sizes) < 3:
        raise UserError(
            f"ecapa: {len(kernel_sizes)} kernel_sizes and {len(dilations)} dilations; give as many"
            " of each, at least 3"
        )
    if len(kernel_sizes) > MAX_LAYERS:
        raise UserError(f"ecapa: {len(kernel_sizes)} kernel_sizes; give at most {MAX_LAYERS}")
    check_kernels("ecapa", kernel_sizes, dilations)


class SERes2Net(nn.Module):
    """TDNN, Res2Net, TDNN, squeeze and excitation, and a residual connection.

    Args:
        channels: C, of input and output.
        scale: groups of channels in the Res2Net.
        se_channels: bottleneck of squeeze and excitation.
        kernel_size: of the Res2Net.
        dilation: of the Res2Net.
    """

    def __init__(
        self,
        channels: int,
        scale: int,
        se_channels: int,
        kernel_size: int,
        dilation: int,
    ) -> None:
        super().__init__()
        self.tdnn1 = TDNN(channels, channels)
        self.res2net_block = Res2Net(channels, scale, kernel_size, dilation)
        self.tdnn2 = TDNN(channels, channels)
        self.se_block = SqueezeExcitation(channels, se_channels)

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        """Map `x` (B, F, C) to (B, F, C)."""
        y = self.tdnn1(x, frames)
        y = self.res2net_block(y, frames)
        y = self.tdnn2(y, frames)
        gates = self.se_block(y, frames)
        return torch.addcmul(x, y, gates)


class Res2Net(nn.Module):
    """Groups of channels in a chain of dilated TDNN layers (Gao et al. 2019).

    The first group stays as it is. Every later one goes through its layer, from the
    third on after the previous group's output has been added to it.

    Args:
        channels: C, a multiple of `scale`.
        scale: number of groups.
        kernel_size: of the layers.
        dilation: of the layers.
    """

    def __init__(self, channels: int, scale: int, kernel_size: int, dilation: int) -> None:
        super().__init__()
        group = channels // scale
        self.scale = scale
        self.blocks = nn.ModuleList()
        for _ in range(scale - 1):
            self.blocks.append(TDNN(group, group, kernel_size, dilation))

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        """Map `x` (B, F, C) to (B, F, C)."""
        first, *others = _split(x, self.scale)
        outputs = [first]
        for index, (group, block) in enumerate(zip(others, self.blocks, strict=True)):
            inputs = group if index == 0 else group + outputs[-1]
            outputs.append(block(inputs, frames))
        if is_traced():
            return torch.cat(outputs, 2)
        joined: Tensor = _Join.apply(*outputs)  # type: ignore[no-untyped-call]
        return joined


class _Join(torch.autograd.Function):
    """Concatenate groups of channels (B, F, G) with contiguous gradients.

    `torch.cat` would hand them strided slices. BatchNorm's backward pass and sums are
    several times slower on rows that are far apart in memory.
    """

    @staticmethod
    def forward(ctx: Any, *groups: Tensor) -> Tensor:
        ctx.count = len(groups)
        return torch.cat(groups, 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        return _split(gradient, ctx.count)


def _split(x: Tensor, count: int) -> tuple[Tensor, ...]:
    """Split the channels of `x` (B, F, C) into contiguous groups (B, F, C / count)."""
    batch, frames, channels = x.shape
    groups = x.reshape(batch, frames, count, channels // count)
    return groups.movedim(2, 0).contiguous().unbind()


class SqueezeExcitation(nn.Module):
    """Gates of channels from their means over the valid frames (Hu et al. 2018).

    Args:
        channels: C.
        bottleneck: channels of the layer between.
    """

    def __init__(self, channels: int, bottleneck: int) -> None:
        super().__init__()
        self.conv1 = Convolution(channels, bottleneck)
        self.conv2 = Convolution(bottleneck, channels)

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        """Return gates (B, 1, C), between 0 and 1, for `x` (B, F, C), in its type."""
        hidden = torch.relu(self.conv1(frames.mean(x)))
        gates = torch.sigmoid(self.conv2(hidden))
        return gates[:, None].to(x.dtype)


PART = ECAPA
