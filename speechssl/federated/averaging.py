"""What a server computes of the clients' weights, and how far a client's have moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

State: TypeAlias = dict[str, Tensor]
"""Weights by name, as those of a state dict that all clients share."""


def shares(counts: Sequence[int]) -> list[float]:
    """Return n_k / n: they sum to one.

    Args:
        counts: n_k, utterances of each client, each above 0.
    """
    total = sum(counts)
    return [count / total for count in counts]


@torch.no_grad()
def weighted_mean(states: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> State:
    """Return sum_k w_k theta_k, over parameters and buffers alike (methods/README.md 14.2).

    Sums are in float64, in the order given; of a single state with weight 1 the result has the bits.
    The averaged variance of a BatchNorm is not the variance of the pooled data: it lacks that of the
    clients' means. Counters and flags are the largest of all.

    Args:
        states: theta_k, with the same names and shapes.
        weights: w_k, which sum to one.
    """
    mean: State = {}
    for name, first in states[0].items():
        if first.is_floating_point():
            total = torch.zeros_like(first, dtype=torch.float64)
            for state, weight in zip(states, weights, strict=True):
                total += weight * state[name].double()
            mean[name] = total.to(first.dtype)
        else:
            mean[name] = torch.stack([state[name] for state in states]).amax(0)
    return mean


@torch.no_grad()
def mixture(one: Mapping[str, Tensor], other: Mapping[str, Tensor], weight: float) -> State:
    """Return weight * one + (1 - weight) * other; the bits of either where weight is 1 or 0.

    Args:
        one, other: with the same names and shapes.
        weight: from 0 to 1.
    """
    if weight == 0.0:
        return dict(other)
    if weight == 1.0:
        return dict(one)
    return weighted_mean([one, other], [weight, 1.0 - weight])


@torch.no_grad()
def divergence(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> float:
    """Return the mean over convolutions of |w_after - w_before|_2 (FedU and FedEMA).

    Convolutions are the weights with three axes or more; an encoder that has none is measured by
    its matrices.

    Args:
        before, after: weights with the same names and shapes.
    """
    floating = {name: value for name, value in before.items() if value.is_floating_point()}
    measured = [name for name, value in floating.items() if value.ndim >= 3]
    measured = measured or [name for name, value in floating.items() if value.ndim == 2]
    norms = [float((after[name].double() - before[name].double()).norm()) for name in measured]
    return sum(norms) / max(1, len(norms))
