"""The head of DINO and its relatives: an MLP, a normalised bottleneck, and prototypes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechssl.errors import UserError


class DinoHead(nn.Module):
    """MLP to a bottleneck, L2 norm, then cosines with K prototypes: (N, in) -> logits (N, K) in
        [-1, 1].

    Args:
        features: size of the embedding.
        prototypes: K.
        layers: linear layers before the prototypes; 0 takes the embedding itself as the bottleneck.
        hidden: width of the layers between.
        bottleneck: size before the prototypes.
        batchnorm: BatchNorm after the hidden layers.
        regularised: width of an extra layer before the bottleneck (8192 in RDINO), 0 for none.
        frozen_gain: keep the prototypes at unit norm, so that logits are cosines.
        dtype of the logits is float32.
    """

    def __init__(
        self,
        features: int,
        prototypes: int,
        layers: int,
        hidden: int,
        bottleneck: int,
        batchnorm: bool,
        regularised: int,
        frozen_gain: bool,
    ) -> None:
        super().__init__()
        if layers < 0 or prototypes < 2 or (regularised and not layers):
            raise UserError(
                f"dino: layers={layers}, prototypes={prototypes}, regularised={regularised} make no"
                " head; give at least 2 prototypes, no negative layers, and a layer where"
                " regularised is used"
            )
        sizes = (
            [features, *[hidden] * (layers - 1), regularised or bottleneck]
            if layers
            else [features]
        )
        blocks: list[nn.Module] = []
        for i, (size, following) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
            last = i == layers - 1
            blocks.append(nn.Linear(size, following, bias=last or not batchnorm))
            if not last:
                blocks += [nn.BatchNorm1d(following)] * batchnorm + [nn.GELU()]
        self.mlp = nn.Sequential(*blocks)
        self.bottleneck = nn.Linear(regularised, bottleneck) if regularised else nn.Identity()
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        width = bottleneck if layers else features
        self.weight_v = nn.Parameter(
            nn.init.trunc_normal_(torch.empty(prototypes, width), std=0.02)
        )
        self.weight_g = nn.Parameter(torch.ones(prototypes, 1), requires_grad=not frozen_gain)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, K) and the layer that RDINO regularises (N, R)."""
        hidden = self.mlp(x)
        z = F.normalize(self.bottleneck(hidden).float(), dim=-1)
        return F.linear(z, F.normalize(self.weight_v, dim=-1) * self.weight_g).float(), hidden
