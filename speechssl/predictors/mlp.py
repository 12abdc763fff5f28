"""The two-layer predictor of SimSiam (a bottleneck of D / 4) and BYOL (an expansion to 4,096).

Chen and He 2021, Grill et al. 2020; methods/README.md 2.1-2.3: Linear, BatchNorm, ReLU, Linear with bias
and nothing after it. SimSiam keeps its learning rate constant (``constant_lr``); BYOL does not.
"""

from __future__ import annotations

from torch import Tensor, nn

from speechssl.interfaces import ParameterRule, Predictor


class MLP(Predictor):
    """Bottleneck or expansion.

    Args:
        hidden: units between, 0: D / 4 (at least 8).
        batchnorm: after the first layer.
        constant_lr: no warm-up and no decay of this predictor's learning rate.
    """

    def __init__(
        self, dim: int, *, hidden: int = 0, batchnorm: bool = True, constant_lr: bool = False
    ) -> None:
        super().__init__()
        hidden = hidden or max(8, dim // 4)
        norm = [nn.BatchNorm1d(hidden)] if batchnorm else []
        self.layers = nn.Sequential(
            nn.Linear(dim, hidden, bias=not batchnorm), *norm, nn.ReLU(), nn.Linear(hidden, dim)
        )
        self.constant_lr = constant_lr

    def forward(self, z: Tensor) -> Tensor:
        """The MLP's output."""
        return self.layers(z)

    def rule(self) -> ParameterRule | None:
        """A constant learning rate, if asked for."""
        return ParameterRule(list(self.parameters()), constant=True) if self.constant_lr else None


PART = MLP
