"""Which order a run goes through its utterances in: shuffled epochs, a stream, or shards in sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from speechssl.data.epochs import EpochOrder, shard_numbers, visit_weights
from speechssl.data.manifest import Utterance
from speechssl.data.order import DataOrder, StreamOrder
from speechssl.data.sequential import Reading, SequentialOrder, find_shards
from speechssl.errors import UserError

Order = EpochOrder | StreamOrder | SequentialOrder
"""Epoch -> the rows that it visits, a function of the seed."""


def choose_order(
    utterances: Sequence[Utterance],
    batch_size: int,
    world: int,
    seed: int,
    *,
    order: DataOrder | None,
    sequential: Reading | None,
    weight_by_duration: bool,
    replacement: bool,
    source_shares: Sequence[float],
    source_temperature: float,
    shards_at_once: int | None,
) -> Order:
    """Return the order that the settings of `CropBatches` ask for.

    Args:
        utterances: of training; their `seconds` are known.
        batch_size: of one process.
        world: number of processes.
        seed: of the run.
        order, sequential: settings of `CropBatches`, as are the others: weights and replacement,
            sources and shards are of shuffled epochs only.

    Raises:
        UserError: settings that ask for two orders at once.
    """
    of_epochs = {
        "weight_by_duration": weight_by_duration,
        "replacement": replacement,
        "source_shares": bool(source_shares),
        "source_temperature": source_temperature != 1.0,
        "shards_at_once": shards_at_once is not None,
    }
    is_shuffled = order is None or order.kind == "shuffled"
    if sequential is not None:
        _refuse_others("reading=stream", of_epochs | {"order": not is_shuffled})
        return SequentialOrder(
            find_shards(utterances),
            batch_size=batch_size,
            world=world,
            seed=seed,
            buffer=sequential.buffer,
        )
    if order is not None and not is_shuffled:
        _refuse_others(f"order={order.kind}", of_epochs)
        return StreamOrder(len(utterances), batch_size * world, seed, order)
    weights = visit_weights(
        np.array([utterance.seconds for utterance in utterances]),
        np.array([utterance.source for utterance in utterances]),
        weight_by_duration=weight_by_duration,
        source_shares=source_shares,
        source_temperature=source_temperature,
    )
    return EpochOrder(
        len(utterances),
        seed,
        weights=weights,
        replacement=replacement,
        shard=None if shards_at_once is None else shard_numbers(utterances, shards_at_once),
        shards_at_once=shards_at_once or 1,
    )


def _refuse_others(chosen: str, wanted: Mapping[str, bool]) -> None:
    """Raise UserError if another option, of those `wanted`, asks for another order of the data.

    Args:
        chosen: the option, as the user writes it behind `data.`.
        wanted: option -> whether it was chosen, too.
    """
    for option, is_wanted in wanted.items():
        if is_wanted:
            raise UserError(f"data.{chosen} does not go with data.{option}; leave one of them out")
