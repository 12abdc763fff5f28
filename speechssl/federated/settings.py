"""The configuration of `speechssl federate`: that of `speechssl train`, and a section ``federated``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from speechssl import config, parts
from speechssl.config import check_above_zero
from speechssl.errors import UserError
from speechssl.federated.strategy import Strategy
from speechssl.train.settings import TrainingConfig, complete, with_train


@dataclass(frozen=True, kw_only=True)
class FederatedSettings:
    """Section ``federated``.

    Attributes:
        rounds: how often the server averages.
        local_epochs, local_steps: length of a client's round; give one of the two.
        strategy: what a client's round starts from (`speechssl list federated`), a name or
            ``{name: fedema, scale: 1}``.
        clients: file of lines `utterance client` (such as utt2session): who has which utterance;
            null: every directory of ``data.train`` is a client.
        weights: of the mean: by the clients' ``utterances``, or all ``equal``.
        optimizer: ``new`` in every round, or ``kept`` by the client.
        rate: learning rate and weight decay are constant in a ``round`` (those of its middle), or
            change with every ``step`` as in a run of `speechssl train`.
        target: a teacher (moving average) stays the client's ``own``, or is ``averaged`` as well.
        clusters: K: clients send K centroids of their embeddings, the server clusters these into K,
            and each utterance's label is the nearest (for ``method: ccfc``); 0: none.
        cluster_every: rounds from one clustering to the next.
        init: folder of a finished `speechssl federate` that the server's weights start from:
            whatever has the same name and shape there, and its encoder.
        min_clients: of a round; with fewer answers it is repeated.
        round_minutes: after which the server goes on without those that have not answered; null: it
            waits.
    """

    rounds: int = 10
    local_epochs: float | None = None
    local_steps: int | None = None
    strategy: Any = "fedavg"
    clients: str | None = None
    weights: Literal["utterances", "equal"] = "utterances"
    optimizer: Literal["new", "kept"] = "new"
    rate: Literal["round", "step"] = "round"
    target: Literal["own", "averaged"] = "own"
    clusters: int = 0
    cluster_every: int = 10
    init: str | None = None
    min_clients: int = 1
    round_minutes: float | None = None

    def __post_init__(self) -> None:
        for name in ("rounds", "local_epochs", "local_steps", "cluster_every", "min_clients"):
            check_above_zero(f"federated.{name}", getattr(self, name))
        check_above_zero("federated.round_minutes", self.round_minutes)
        if (self.local_epochs is None) == (self.local_steps is None):
            raise UserError(
                "config: give federated.local_epochs or federated.local_steps, one of them"
            )
        if self.clusters < 0 or self.clusters == 1:
            raise UserError(
                f"config: federated.clusters must be 0 or at least 2, not {self.clusters}"
            )

    def build_strategy(self) -> Strategy:
        """Return the strategy, which has been checked."""
        strategy: Strategy = parts.construct("federated", self.strategy)
        return strategy

    def clusters_before(self, round: int) -> bool:
        """Return whether utterances are clustered before a round (from 1)."""
        return self.clusters > 0 and (round - 1) % self.cluster_every == 0


def read_settings(
    path: str, overrides: Sequence[str] = ()
) -> tuple[TrainingConfig, FederatedSettings]:
    """Read and check a configuration.

    Args:
        path: YAML file with the sections of `speechssl train` and ``federated``.
        overrides: ``key=value`` pairs on top of it.

    Raises:
        UserError: as ``train.settings.resolve``; or the length of the run is set under ``train``,
            or held-out utterances, which only `speechssl train` measures on.
    """
    written = config.read(path, overrides)
    section = written.pop("federated", None) or {}
    if not isinstance(section, dict):
        raise UserError("config: section federated must be a mapping (key: value)")
    settings = config.build(FederatedSettings, section, "federated")
    strategy = parts.check("federated", config.thaw(settings.strategy), "federated.strategy")
    part = parts.find("federated", strategy["name"])
    if not (isinstance(part, type) and issubclass(part, Strategy)):
        raise UserError(
            f"config: federated.strategy {strategy['name']} is no strategy; it must be a subclass of"
            " speechssl.federated.strategy.Strategy"
        )
    settings = replace(settings, strategy=config.freeze(strategy))
    train = written.setdefault("train", {}) or {}
    if isinstance(train, dict):
        for name in ("steps", "epochs"):
            if train.get(name) is not None:
                raise UserError(
                    f"config: train.{name} is set by federated.rounds and local_epochs (or"
                    " local_steps); leave it out"
                )
        written["train"] = {**train, "steps": 1}
    training = complete(written)
    if training.heldout.data is not None:
        raise UserError(
            "config: heldout is for speechssl train; leave it out, and evaluate the models of the rounds"
        )
    return training, settings


def for_a_client(
    training: TrainingConfig, settings: FederatedSettings, utterances: int
) -> tuple[TrainingConfig, int]:
    """Return the configuration of a client's whole run, and the steps of one of its rounds.

    Args:
        training: as it was read.
        settings: of the federation.
        utterances: number of them that the client has.
    """
    batch = training.train.batch_size * training.train.gradient_accumulation_steps
    steps = settings.local_steps
    if steps is None:
        assert settings.local_epochs is not None
        steps = max(1, round(settings.local_epochs * max(1, utterances // batch)))
    return with_train(training, steps=settings.rounds * steps, epochs=None), steps
