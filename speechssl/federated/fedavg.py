"""FedAvg: every round starts from the mean of all clients' weights (McMahan et al. 2017, AISTATS)."""

from __future__ import annotations

from speechssl.federated.averaging import State
from speechssl.federated.strategy import Own, Strategy


class FedAvg(Strategy):
    """Take what the server sends."""

    def begin(self, received: State, own: Own | None) -> State:
        """Return the mean of all clients' weights."""
        return dict(received)


PART = FedAvg
