"""The steps of a client's round, and saving what stays with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from speechssl.files import RunFolder
from speechssl.train.checkpoint import save_state
from speechssl.train.checks import StepLoss, stop_if_not_finite
from speechssl.train.logs import Clock
from speechssl.train.loop import take_step
from speechssl.train.run import Run
from speechssl.train.saving import save_model
from speechssl.train.tracked import tracked


def train_steps(run: Run, steps: int, folder: RunFolder) -> dict[str, float]:
    """Take the optimiser steps of a round.

    Args:
        run: at the first of them.
        steps: how many.
        folder: of the client, for messages.

    Returns:
        Means of the loss and of the method's scalars, and the collapse monitor's figures.

    Raises:
        UserError: a loss or a weight is not finite.
    """
    passes = run.config.train.gradient_accumulation_steps
    last = run.step + steps
    model = run.parallel()
    loader = run.loader(run.step * passes, last * passes)
    loader.errors = run.read_errors
    batches = iter(loader)
    clock = Clock(run.batch_size)
    losses: list[StepLoss] = []
    with tracked(run, folder, {}, resumed=False) as nothing:
        while run.step < last:
            losses += take_step(run, model, batches, clock, nothing).losses
            clock.step()
    stop_if_not_finite(run, losses, folder)
    figures = run.meter.read() | run.monitor.figures()
    return {name: float(value) for name, value in figures.items()}


def save_round(run: Run, folder: RunFolder, memory: Mapping[str, Any], round: int) -> None:
    """Write a line of the log, the client's own model, and last the state after a round.

    A client that is killed before the state is written takes the round again: nothing of it is missing
    afterwards, and nothing is there twice.

    Args:
        run: at the end of the round.
        folder: of the client.
        memory: what the next round needs beside the state of the run.
        round: its number, from 1.
    """
    state = run.state() | dict(memory)
    # `save_model` loads the encoder that users get into the one that is trained.
    state["method"] = {name: value.clone() for name, value in state["method"].items()}
    entry = {"step": run.step, "round": round, **memory["figures"]}
    with folder.log.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")
    save_model(run, folder, folder.model)
    save_state(state, folder.last)
