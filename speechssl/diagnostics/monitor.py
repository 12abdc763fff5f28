"""Watches a training run for collapse and says what to do about it.

It looks at the embedding that users get, not at the projector: after a final BatchNorm a collapsed
projector still has a healthy deviation and a small centre, and only the rank tells (methods/README.md
2.9).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from speechssl.diagnostics.centre_norm import centre_norm
from speechssl.diagnostics.deviation import deviation
from speechssl.diagnostics.effective_rank import effective_rank
from speechssl.diagnostics.rankme import rankme
from speechssl.diagnostics.uniformity import uniformity

_FALLEN = 0.4  # share of its first value below which a rank that keeps falling is an alarm


class Alarm(NamedTuple):
    """One line each: what is seen, why that is likely, what helps."""

    symptom: str
    cause: str
    remedy: str

    def __str__(self) -> str:
        return f"collapse alarm: {self.symptom}; likely cause: {self.cause}; remedy: {self.remedy}"


class Monitor:
    """Keeps the last embeddings and judges them every so often.

    Args:
        dim: size of an embedding; the last ``2 * dim`` (at least 512) are kept.
        patience: checks in a row that must fail before the alarm is raised.
        prototypes: K of a method that assigns to prototypes, for the limits of its entropy.
    """

    def __init__(self, dim: int, patience: int = 3, prototypes: int | None = None) -> None:
        self.dim, self.patience, self.prototypes = dim, patience, prototypes
        self.size = max(512, 2 * dim)
        self._embeddings, self._projections = _Last(self.size), _Last(self.size)
        self._failures: dict[str, int] = {}
        self._ranks: dict[str, list[float]] = {}  # at the first check, and at the latest

    def add(self, embeddings: Tensor, projections: Tensor | None = None) -> None:
        """Keep (N, D) embeddings of one step and, if given, (N, P) projections, on their device;
        the oldest are dropped.
        """
        self._embeddings.add(embeddings)
        if projections is not None:
            self._projections.add(projections.detach())

    def figures(self) -> dict[str, float]:
        """Rank, centre and spread of the embeddings kept, and the rank of the projections, where
        collapse begins; empty before there are enough of them.
        """
        if self._embeddings.count < 2 * self.dim:
            return {}
        x = self._embeddings.joined()
        found = {
            "rankme": rankme(x),
            "effective_rank": effective_rank(x),
            "centre_norm": centre_norm(x),
            "deviation": deviation(x),
            "uniformity": float(uniformity(x[-1024:])),
        }
        if self._projections.count:
            found["projection_rank"] = effective_rank(self._projections.joined())
        return found

    def state(self) -> dict[str, Any]:
        """All that an unbroken continuation needs."""
        return {
            "embeddings": self._embeddings.parts(),
            "projections": self._projections.parts(),
            "failures": dict(self._failures),
            "ranks": {key: list(value) for key, value in self._ranks.items()},
        }

    def restore(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Continue from ``state``."""
        for kept, name in ((self._embeddings, "embeddings"), (self._projections, "projections")):
            for part in state[name]:
                kept.add(part.to(device))
        self._failures = dict(state["failures"])
        self._ranks = {key: list(value) for key, value in state["ranks"].items()}

    def check(self, figures: dict[str, float]) -> list[Alarm]:
        """Alarms for logged figures (those of ``figures`` and the method's scalars) that stay
        bad.
        """
        alarms = []
        for key, alarm in self._judge(figures).items():
            self._failures[key] = self._failures.get(key, 0) + 1 if alarm else 0
            if alarm and self._failures[key] == self.patience:
                alarms.append(alarm)
        return alarms

    def _judge(self, figures: dict[str, float]) -> dict[str, Alarm | None]:
        seen: dict[str, Alarm | None] = {}
        if "effective_rank" in figures:
            rank = figures["effective_rank"]
            seen["rank"], seen["fall"] = None, self._judge_fall("embeddings", rank)
            if rank < 0.05 * self.dim:
                seen["rank"] = Alarm(
                    f"embeddings use {rank:.1f} of {self.dim} directions (under 5 %)",
                    "dimensional collapse: the loss is met by a few features",
                    "lower the learning rate, raise teacher momentum or batch size, add"
                    " koleo_weight=0.1",
                )
        if "projection_rank" in figures:
            seen["projection"] = self._judge_fall("projections", figures["projection_rank"])
        if "centre_norm" in figures:
            norm = figures["centre_norm"]
            seen["centre"] = None
            if norm > 0.95:
                seen["centre"] = Alarm(
                    f"all embeddings point one way (centre norm {norm:.3f})",
                    "complete collapse, or an encoder whose mean was never removed by learning",
                    "check centring and stop-gradient; lower the learning rate",
                )
        if self.prototypes and "teacher_entropy" in figures:
            seen["entropy"] = self._judge_entropy(figures["teacher_entropy"])
        if "kl" in figures:
            seen["kl"] = None
            if abs(figures["kl"]) < 1e-3:
                seen["kl"] = Alarm(
                    f"student and teacher agree on everything (KL {figures['kl']:.1e})",
                    "the assignment no longer depends on the utterance",
                    "use both centring and sharpening; lower teacher_temperature or the learning"
                    " rate",
                )
        return seen

    def _judge_fall(self, what: str, rank: float) -> Alarm | None:
        """A rank far below where it began, and lower at every check, is a collapse on its way."""
        first, before = self._ranks.get(what, [rank, rank])
        self._ranks[what] = [first, rank]
        if not (rank < _FALLEN * first and rank < before):
            return None
        return Alarm(
            f"{what} use {rank:.1f} directions and ever fewer, after {first:.1f} at the first"
            " check",
            "dimensional collapse on its way: nothing holds the directions apart",
            "add a predictor, guided stop-gradient or koleo_weight=0.1; lower the learning rate",
        )

    def _judge_entropy(self, entropy: float) -> Alarm | None:
        limit = math.log(self.prototypes or 1)
        if entropy > 0.99 * limit:
            return Alarm(
                f"teacher assignment is flat (entropy {entropy:.2f} of ln K = {limit:.2f})",
                "too little sharpening",
                "lower teacher_temperature (0.04), or fewer prototypes",
            )
        if entropy < 1e-4 * limit:
            return Alarm(
                f"teacher assignment is one-hot (entropy {entropy:.1e})",
                "too little centring",
                "raise teacher_temperature (0.07), or use centring=sinkhorn",
            )
        return None


class _Last:
    """The last ``size`` rows, in the parts in which they came."""

    def __init__(self, size: int) -> None:
        self.size, self.count = size, 0
        self._parts: deque[Tensor] = deque()

    def add(self, rows: Tensor) -> None:
        if (
            self._parts and self._parts[-1].shape[1] != rows.shape[1]
        ):  # another stage of a method: start anew
            self._parts.clear()
            self.count = 0
        self._parts.append(rows)
        self.count += len(rows)
        while self.count - len(self._parts[0]) >= self.size:
            self.count -= len(self._parts.popleft())

    def joined(self) -> Tensor:
        return torch.cat(list(self._parts)).float()

    def parts(self) -> list[Tensor]:
        return [part.cpu() for part in self._parts]
