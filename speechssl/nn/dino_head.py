"""The head of DINO and its relatives: an MLP, a normalised bottleneck, and prototypes."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechssl.errors import UserError
from speechssl.interfaces import Encoder
from speechssl.nn.frames import accumulation_dtype

__all__ = ["DinoHead", "DinoNetwork"]

_INITIAL_DEVIATION = 0.02


class DinoHead(nn.Module):
    """Embeddings to similarities with K prototypes (Caron et al. 2021; methods/README.md 1).

        logit_k = g_k cos(v_k, bottleneck(mlp(x))),    g_k = 1 unless it is trained

    Args:
        embedding_dim: D, size of the embedding.
        prototypes: K.
        layers: linear layers before the prototypes; 0: the embedding itself is the
            bottleneck.
        hidden: size of the layers between.
        bottleneck: size of the bottleneck.
        batchnorm: BatchNorm after the hidden layers, which then have no bias.
        regularised: size of an extra layer before the bottleneck (RDINO: 8192), 0:
            none.
        frozen_gain: keep g_k = 1, so that logits are cosines.
        input_batchnorm: BatchNorm on the embedding, before the first layer (hyperion's
            x-vector head, whose embedding is what comes before it).

    The prototypes start uniform between +-1 / sqrt(bottleneck), as ``nn.Linear`` does:
    the released program leaves them at that (row norm 1 / sqrt(3) = 0.577). The rate at
    which SGD turns them depends on it.

    Raises:
        UserError: the sizes make no head.
    """

    def __init__(
        self,
        embedding_dim: int,
        prototypes: int,
        layers: int,
        hidden: int,
        bottleneck: int,
        batchnorm: bool,
        regularised: int,
        frozen_gain: bool,
        input_batchnorm: bool = False,
    ) -> None:
        super().__init__()
        if layers < 0 or prototypes < 2 or (regularised and not layers):
            raise UserError(
                f"dino: a head cannot have layers={layers}, prototypes={prototypes},"
                f" regularised={regularised}: layers must be at least 0 (1 with regularised), and"
                " prototypes at least 2"
            )
        sizes = [embedding_dim]
        if layers:
            sizes += [hidden] * (layers - 1)
            sizes += [regularised or bottleneck]
        self.input_norm: nn.Module = nn.Identity()
        if input_batchnorm:
            self.input_norm = nn.BatchNorm1d(embedding_dim)
        self.mlp = _mlp(sizes, batchnorm)
        self.bottleneck: nn.Module = nn.Identity()
        if regularised:
            self.bottleneck = nn.Linear(regularised, bottleneck)
        self._initialise_layers()
        size = bottleneck if layers else embedding_dim
        largest = 1 / math.sqrt(size)
        directions = torch.empty(prototypes, size).uniform_(-largest, largest)
        self.weight_v = nn.Parameter(directions)
        self.weight_g = nn.Parameter(torch.ones(prototypes, 1), requires_grad=not frozen_gain)

    def _initialise_layers(self) -> None:
        """Draw the weights of the linear layers, and set their biases to 0."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=_INITIAL_DEVIATION)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def prototypes(self) -> Tensor:
        """Return the prototypes (K, P): unit vectors times their gain."""
        return F.normalize(self.weight_v, dim=-1) * self.weight_g

    def forward(self, x: Tensor, prototypes: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Compare embeddings with the prototypes.

        Args:
            x: (N, D).
            prototypes: (K, P) to compare with in place of this head's own.

        Returns:
            Logits (N, K), float32 (float64 for float64), and what the MLP gives,
            (N, R), which RDINO regularises.
        """
        hidden = self.mlp(self.input_norm(x))
        bottleneck = self.bottleneck(hidden)
        dtype = accumulation_dtype(bottleneck.dtype)
        z = F.normalize(bottleneck.to(dtype), dim=-1)
        if prototypes is None:
            prototypes = self.prototypes()
        return F.linear(z, prototypes).to(dtype), hidden


def _mlp(sizes: list[int], batchnorm: bool) -> nn.Sequential:
    """Build linear layers of these sizes, with BatchNorm and GELU between them."""
    layers: list[nn.Module] = []
    last = len(sizes) - 2
    for index in range(len(sizes) - 1):
        has_bias = index == last or not batchnorm
        layers.append(nn.Linear(sizes[index], sizes[index + 1], bias=has_bias))
        if index < last:
            if batchnorm:
                layers.append(nn.BatchNorm1d(sizes[index + 1]))
            layers.append(nn.GELU())
    return nn.Sequential(*layers)


class DinoNetwork(nn.Module):
    """An encoder and its head as one module, so that a teacher is a copy of one thing.

    Args:
        encoder: features to embeddings (N, D).
        head: embeddings to logits (N, K).
    """

    def __init__(self, encoder: Encoder, head: DinoHead) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
