"""What a strategy is: how a client of federated training begins a round."""

from __future__ import annotations

from dataclasses import dataclass

from speechssl.federated.averaging import State


@dataclass(frozen=True)
class Own:
    """What a client has kept of its last round.

    Attributes:
        state: its weights after that round, of what all clients share.
        divergence: d of that round, the mean over convolutions of |w_after - w_before|_2.
        first_divergence: d of its first round.
    """

    state: State
    divergence: float
    first_divergence: float


class Strategy:
    """Decides what a client's round starts from; a part of `federated/`.

    A part's constructor takes its keyword-only settings. The server's part is the same for all: the
    mean of the clients' weights, by their number of utterances.
    """

    def begin(self, received: State, own: Own | None) -> State:
        """Return the weights that a client starts a round from.

        Args:
            received: mean of all clients' weights.
            own: of this client; None in its first round.
        """
        raise NotImplementedError


def is_of_predictor(name: str) -> bool:
    """Return whether a weight belongs to the predictor (h of SimSiam, BYOL and their relatives)."""
    return "predictor" in name.split(".")
