"""WavLM, HuBERT or wav2vec 2.0 of transformers, with multi-head factorised attentive pooling.

The networks are those of the library `transformers` (extra `transformers`), built from sizes and
never from code of a model's folder; the pooling is `nn.mhfa`. Its features are `waveform`: the
encoder takes samples. `foreign/transformers.py` reads folders of weights.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from speechssl.errors import UserError
from speechssl.interfaces import Encoder
from speechssl.nn.frames import Frames
from speechssl.nn.mhfa import MHFA, weighted_layers
from speechssl.nn.pooling import statistics

__all__ = ["PART", "SpeechTransformer"]

MAX_LAYERS = 100
MAX_WIDTH = 1 << 14
MAX_FRAMES = 10_000
"""Bounds of layers, of every number of channels, and of kernels, strides and buckets, far beyond
any use: a model folder may be somebody else's."""

_CLASSES = {
    "wavlm": ("WavLMConfig", "WavLMModel"),
    "hubert": ("HubertConfig", "HubertModel"),
    "wav2vec2": ("Wav2Vec2Config", "Wav2Vec2Model"),
}
"""Names of the configuration and the network in transformers."""

_FIXED: dict[str, Any] = {
    "hidden_dropout": 0.0,
    "activation_dropout": 0.0,
    "attention_dropout": 0.0,
    "feat_proj_dropout": 0.0,
    "final_dropout": 0.0,
    "layerdrop": 0.0,
    "apply_spec_augment": False,
    "mask_time_prob": 0.0,
    "mask_feature_prob": 0.0,
    "add_adapter": False,
}
"""What is random in transformers' training is off: augmentation is the loader's."""


class SpeechTransformer(Encoder):
    """A transformer on samples, and a pooling over its layers and frames.

    The sizes have the names that transformers' `config.json` gives them.

    Args:
        input_dim: 1: features must be `waveform`.
        model_type: wavlm, hubert or wav2vec2.
        hidden_size: channels of the transformer.
        num_hidden_layers: L, layers of the transformer.
        num_attention_heads: heads of each layer's attention.
        intermediate_size: channels of the layers' feed-forward part.
        conv_dim: channels of the convolutions that make frames of samples.
        conv_stride: strides of these convolutions.
        conv_kernel: kernels of these convolutions.
        conv_bias: whether these convolutions have biases.
        feat_extract_norm: `group` (base models) or `layer` (large ones).
        feat_proj_layer_norm: whether frames are normalised first (HuBERT may not).
        do_stable_layer_norm: norms before the layers' parts (large models), not behind them.
        num_conv_pos_embeddings: kernel of the convolution that tells positions.
        num_conv_pos_embedding_groups: groups of that convolution.
        num_buckets: number of WavLM's relative positions that are told apart.
        max_bucket_distance: frames beyond which WavLM's relative positions are one.
        layer_norm_eps: added to variances.
        pooling: `mhfa` and a linear layer; or `statistics`: mean and deviation over frames of the
            layers' mean, without weights of its own (what a folder of transformers is embedded with).
        heads: H of MHFA.
        compression_dim: C of MHFA.
        embedding_dim: D with `mhfa`; with `statistics` D is twice `hidden_size`.
        frozen: keep the transformer as it is and train the pooling alone.

    Raises:
        UserError: transformers is not installed, other features, or sizes that do not fit together.
    """

    INPUT: ClassVar[Literal["features", "samples"]] = "samples"

    def __init__(
        self,
        input_dim: int,
        *,
        model_type: Literal["wavlm", "hubert", "wav2vec2"] = "wavlm",
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 12,
        intermediate_size: int = 3072,
        conv_dim: list[int] = [512, 512, 512, 512, 512, 512, 512],  # noqa: B006 (read only)
        conv_stride: list[int] = [5, 2, 2, 2, 2, 2, 2],  # noqa: B006
        conv_kernel: list[int] = [10, 3, 3, 3, 3, 2, 2],  # noqa: B006
        conv_bias: bool = False,
        feat_extract_norm: Literal["group", "layer"] = "group",
        feat_proj_layer_norm: bool = True,
        do_stable_layer_norm: bool = False,
        num_conv_pos_embeddings: int = 128,
        num_conv_pos_embedding_groups: int = 16,
        num_buckets: int = 320,
        max_bucket_distance: int = 800,
        layer_norm_eps: float = 1e-5,
        pooling: Literal["mhfa", "statistics"] = "mhfa",
        heads: int = 64,
        compression_dim: int = 128,
        embedding_dim: int = 256,
        frozen: bool = True,
    ) -> None:
        super().__init__()
        if input_dim != 1:
            raise UserError(
                "encoder: transformer takes samples; set features: {name: waveform}, not features of"
                f" {input_dim} numbers a frame"
            )
        sizes = {
            "hidden_size": hidden_size,
            "num_hidden_layers": num_hidden_layers,
            "num_attention_heads": num_attention_heads,
            "intermediate_size": intermediate_size,
            "conv_dim": list(conv_dim),
            "conv_stride": list(conv_stride),
            "conv_kernel": list(conv_kernel),
            "num_conv_pos_embeddings": num_conv_pos_embeddings,
            "num_conv_pos_embedding_groups": num_conv_pos_embedding_groups,
        }
        if model_type == "wavlm":
            sizes |= {"num_buckets": num_buckets, "max_bucket_distance": max_bucket_distance}
        _check_sizes(sizes)
        _check_sizes(
            {"heads": heads, "compression_dim": compression_dim, "embedding_dim": embedding_dim}
        )
        if model_type == "hubert":
            sizes["feat_proj_layer_norm"] = feat_proj_layer_norm
        forms = {
            "conv_bias": conv_bias,
            "feat_extract_norm": feat_extract_norm,
            "do_stable_layer_norm": do_stable_layer_norm,
            "layer_norm_eps": layer_norm_eps,
        }
        self.backbone = _backbone(model_type, {**sizes, **forms})
        self.frozen = frozen
        if frozen:
            self.backbone.requires_grad_(False)
        self.shortest = _receptive_field(conv_kernel, conv_stride)
        self.pooling: MHFA | None = None
        self.linear: nn.Linear | None = None
        self.embedding_dim = 2 * hidden_size
        if pooling == "mhfa":
            self.pooling = MHFA(num_hidden_layers + 1, hidden_size, heads, compression_dim)
            self.linear = nn.Linear(self.pooling.output_dim, embedding_dim)
            self.embedding_dim = embedding_dim
        self.train()

    def train(self, mode: bool = True) -> SpeechTransformer:
        """Set training or evaluation; a frozen transformer stays in evaluation."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def affine_layers(self) -> dict[str, nn.Module]:
        """Return the linear layer after MHFA."""
        return {} if self.linear is None else {"linear": self.linear}

    def load_from(self, other: Encoder) -> None:
        """Take over an encoder's weights, or those of its transformer where the poolings differ."""
        if isinstance(other, SpeechTransformer) and type(other.pooling) is not type(self.pooling):
            self.backbone.load_state_dict(other.backbone.state_dict())
        else:
            super().load_from(other)

    def forward(self, features: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return embeddings (B, D) of samples (B, T, 1).

        Rows of one length run together and no row is padded: the norm over time of the base models
        knows no padding.
        """
        samples = features[:, :, 0]
        if lengths is None or bool((lengths == samples.shape[1]).all()):
            return self._encode(samples)
        embeddings: list[Tensor | None] = [None] * len(samples)
        for length in sorted(set(lengths.tolist())):
            rows = (lengths == length).nonzero()[:, 0]
            for row, embedding in zip(
                rows.tolist(), self._encode(samples[rows, :length]), strict=True
            ):
                embeddings[row] = embedding
        return torch.stack([one for one in embeddings if one is not None])

    def _encode(self, samples: Tensor) -> Tensor:
        """Return embeddings (B, D) of samples (B, T); short rows are repeated cyclically."""
        if samples.shape[1] < self.shortest:
            times = -(-self.shortest // samples.shape[1])
            samples = samples.repeat(1, times)[:, : self.shortest]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            layers = self.backbone(samples, output_hidden_states=True).hidden_states
        frames = Frames.of(layers[0], None)
        if self.pooling is None or self.linear is None:
            even = torch.zeros(len(layers), device=samples.device)
            return statistics(weighted_layers(layers, even), frames)
        embeddings: Tensor = self.linear(self.pooling(layers, frames))
        return embeddings


def _backbone(model_type: str, sizes: dict[str, Any]) -> nn.Module:
    """Build the network of transformers with random weights.

    Raises:
        UserError: transformers is not installed, or refuses the sizes.
    """
    try:
        import transformers
    except ImportError:
        raise UserError(
            "encoder: transformer needs transformers; pip install 'speechssl[transformers]'"
        ) from None
    config_name, network_name = _CLASSES[model_type]
    try:
        configuration = getattr(transformers, config_name)(**sizes, **_FIXED)
        network: nn.Module = getattr(transformers, network_name)(configuration)
    except (ValueError, TypeError, AssertionError, RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"encoder: transformer: these sizes do not fit together ({reason})"
        ) from error
    return network


def _check_sizes(sizes: dict[str, Any]) -> None:
    """Raise UserError for a size that is not positive or far beyond any use."""
    limits = {"num_hidden_layers": MAX_LAYERS}
    for name, value in sizes.items():
        values = value if isinstance(value, list) else [value]
        limit = MAX_FRAMES if name in ("conv_stride", "conv_kernel") else MAX_WIDTH
        limit = limits.get(name, limit)
        if not values or len(values) > MAX_LAYERS or not all(1 <= one <= limit for one in values):
            raise UserError(f"encoder.{name}: {str(value)[:80]} must be 1 to {limit}")
    lists = [
        len(sizes[name]) for name in ("conv_dim", "conv_stride", "conv_kernel") if name in sizes
    ]
    if len(set(lists)) > 1:
        raise UserError("encoder: conv_dim, conv_stride and conv_kernel must be equally long")


def _receptive_field(kernels: list[int], strides: list[int]) -> int:
    """Return how many samples give one frame."""
    samples = 1
    for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
        samples = (samples - 1) * stride + kernel
    return samples


PART = SpeechTransformer
