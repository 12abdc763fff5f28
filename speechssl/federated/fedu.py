"""FedU: keep the own predictor after a round that has moved the weights far (Zhuang et al. 2021, ICCV).

Encoder and projector are the mean of all clients. The predictor is, too, where the client's last
round has changed its convolutions by less than ``threshold`` on average; else the data are too
different, and the client keeps its own (EasyFL, `applications/fedssl`; methods/README.md 14.2).
"""

from __future__ import annotations

from speechssl.config import check_above_zero
from speechssl.federated.averaging import State
from speechssl.federated.strategy import Own, Strategy, is_of_predictor


class FedU(Strategy):
    """Choose between the predictors.

    Args:
        threshold: mu; it depends on the encoder and on the steps of a round: the divergence of
            every client's round is in log.jsonl.

    Raises:
        UserError: the threshold is not above 0.
    """

    def __init__(self, *, threshold: float = 0.4) -> None:
        check_above_zero("federated.strategy.threshold", threshold)
        self.threshold = threshold

    def begin(self, received: State, own: Own | None) -> State:
        """Return the mean of all clients, with the client's own predictor after a far move."""
        if own is None or own.divergence < self.threshold:
            return dict(received)
        start = dict(received)
        for name, value in own.state.items():
            if is_of_predictor(name):
                start[name] = value
        return start


PART = FedU
