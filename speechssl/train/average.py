"""Averages of the last encoder snapshots of a run."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from speechssl import foreign_yaml, weights
from speechssl.errors import UserError
from speechssl.files import RunFolder
from speechssl.locks import sole_writer_in
from speechssl.model import Model
from speechssl.train.checkpoint import snapshots, step_of


def average(
    run: str | Path,
    last: int = 10,
    out: str | Path | None = None,
    until: int | None = None,
    *,
    allow_code: Collection[str] = (),
) -> Path:
    """Average the encoders of the last snapshots of a run into a model folder.

    Args:
        run: run folder.
        last: how many snapshots.
        out: model folder; None: ``RUN/model-averageN``.
        until: leave out snapshots after this step; ``last=1, until=500`` gives the
            model as it was after 500 steps.
        allow_code: packages outside this one whose parts the run's folder may name.

    Returns:
        The model folder.

    Raises:
        UserError: there are no such snapshots.
    """
    folder = RunFolder(run)
    paths = snapshots(folder)
    if until is not None:
        paths = [path for path in paths if step_of(path) <= until]
    paths = paths[-last:]
    if last < 1 or not paths:
        bound = "" if until is None else f" up to step {until}"
        raise UserError(
            f"average: no snapshots{bound} in {folder.snapshots}; give a run folder of 'speechssl"
            " train' (train.save_every and train.keep say which there are)"
        )
    about = foreign_yaml.read(folder.about) | {"averaged": [path.stem for path in paths]}
    states = [weights.read(path) for path in paths]
    for path, state in zip(paths, states, strict=True):
        if _shapes(state) != _shapes(states[-1]):
            raise UserError(f"average: {path} is of another encoder than {paths[-1]}; remove it")
    model = Model.from_state(
        folder.config, mean_state(states), paths[-1], about, allow_code=allow_code
    )
    target = folder.path / f"model-average{len(paths)}"
    if out is not None:
        target = Path(out)
    with sole_writer_in(target):
        model.save(target)
    return target


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def mean_state(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of state dictionaries, oldest first.

    Floating-point entries (BatchNorm statistics too) are averaged in float64; counters
    are those of the newest.
    """
    mean = {}
    for key, newest in states[-1].items():
        mean[key] = newest
        if newest.is_floating_point():
            stacked = torch.stack([state[key].double() for state in states])
            mean[key] = stacked.mean(0).to(newest.dtype)
    return mean
