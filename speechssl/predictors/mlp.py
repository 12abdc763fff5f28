"""The two-layer predictor of SimSiam (a bottleneck of D / 4) and BYOL (an expansion to 4,096).

Chen and He 2021, Grill et al. 2020; methods/README.md 2.1-2.3: Linear, BatchNorm, ReLU,
Linear with bias and nothing after it. SimSiam keeps its learning rate constant
(`constant_lr`); BYOL does not.
"""

from __future__ import annotations

from torch import Tensor, nn

from speechssl.interfaces import ParameterRule, Predictor


class MLP(Predictor):
    """Bottleneck or expansion.

    Args:
        dim: D, size of a projection.
        hidden: size of the layer between; 0: D / 4, at least 8.
        batchnorm: BatchNorm after the first layer, which then has no bias.
        constant_lr: no warm-up and no decay of this predictor's learning rate.
    """

    def __init__(
        self,
        dim: int,
        *,
        hidden: int = 0,
        batchnorm: bool = True,
        constant_lr: bool = False,
    ) -> None:
        super().__init__()
        hidden = hidden or max(8, dim // 4)
        layers: list[nn.Module] = [nn.Linear(dim, hidden, bias=not batchnorm)]
        if batchnorm:
            layers.append(nn.BatchNorm1d(hidden))
        layers.append(nn.ReLU())
        layers.append(nn.Linear(hidden, dim))
        self.layers = nn.Sequential(*layers)
        self.constant_lr = constant_lr

    def forward(self, z: Tensor) -> Tensor:
        """Return predictions (N, D) of projections `z` (N, D)."""
        predictions: Tensor = self.layers(z)
        return predictions

    def rule(self) -> ParameterRule | None:
        """Return the rule of a constant learning rate, if asked for."""
        if not self.constant_lr:
            return None
        return ParameterRule(list(self.parameters()), constant=True)


PART = MLP
