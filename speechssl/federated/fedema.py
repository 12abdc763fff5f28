"""FedEMA: mix the own weights with the mean, by how far the last round moved (Zhuang et al. 2022, ICLR).

    start = m own + (1 - m) mean,   m = min(1, scale d)

d is the mean over convolutions of |w_after - w_before|_2 in the client's last round: the more its
data pull away, the more of its own it keeps. m = 0 is FedAvg, m = 1 no federation. With ``target``
the scale is chosen by each client at its second round, so that m is ``target`` then: scale =
target / d (0.7 to 0.8 in the paper; EasyFL, `applications/fedssl`; methods/README.md 14.2).
"""

from __future__ import annotations

from speechssl.config import check_fraction
from speechssl.errors import UserError
from speechssl.federated.averaging import State, mixture
from speechssl.federated.strategy import Own, Strategy


class FedEMA(Strategy):
    """Mix encoder, projector and predictor alike.

    Args:
        scale: lambda, by which d is multiplied.
        target: m of a client's second round, which sets its scale; null: ``scale`` holds.

    Raises:
        UserError: ``scale`` is below 0, or ``target`` is not between 0 and 1.
    """

    def __init__(self, *, scale: float = 1.0, target: float | None = None) -> None:
        if scale < 0:
            raise UserError(f"config: federated.strategy.scale must be at least 0, not {scale:g}")
        if target is not None:
            check_fraction("federated.strategy.target", target)
        self.scale = scale
        self.target = target

    def share(self, own: Own) -> float:
        """Return m, the share of the client's own weights, 0 to 1."""
        scale = self.scale
        if self.target is not None:
            scale = self.target / max(own.first_divergence, 1e-12)
        return min(1.0, scale * own.divergence)

    def begin(self, received: State, own: Own | None) -> State:
        """Return the mixture; in the first round there is nothing to mix with."""
        if own is None:
            return dict(received)
        return mixture(own.state, received, self.share(own))


PART = FedEMA
