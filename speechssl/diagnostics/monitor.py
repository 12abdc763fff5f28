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
from speechssl.diagnostics.ranks import rank_collapsed
from speechssl.diagnostics.uniformity import uniformity

FALLEN = 0.4
"""Share of its first value below which a rank that keeps falling is an alarm."""

UNIFORMITY_ROWS = 1024
"""Uniformity compares all pairs: that of the latest so many embeddings is enough."""


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
        dim: size D of an embedding; the last 2 D (at least 512) are kept.
        patience: checks in a row that must fail before the alarm is raised.
        prototypes: K of a method that assigns to prototypes, for the limits of its entropy.
        teacher_temperature: of such a method at its highest; remedies are relative to it.
    """

    def __init__(
        self,
        dim: int,
        patience: int = 3,
        prototypes: int | None = None,
        teacher_temperature: float | None = None,
    ) -> None:
        self.dim = dim
        self.patience = patience
        self.prototypes = prototypes
        self.teacher_temperature = teacher_temperature
        self.min_count = 2 * dim
        self.size = max(512, self.min_count)
        self._embeddings = _LastRows(self.size)
        self._projections = _LastRows(self.size)
        self._failures: dict[str, int] = {}
        self._ranks: dict[str, list[float]] = {}  # at the first check, and at the latest

    def add(self, embeddings: Tensor, projections: Tensor | None = None) -> None:
        """Keep the embeddings of one step, on their device; the oldest are dropped.

        Args:
            embeddings: (N, D).
            projections: (N, P), where there are any.
        """
        self._embeddings.add(embeddings)
        if projections is not None:
            self._projections.add(projections.detach())

    def figures(self) -> dict[str, float]:
        """Return rank, centre and spread of the embeddings kept, and the rank of the projections.

        Collapse begins at the projections. Nothing is returned before there are 2 D embeddings.
        """
        if self._embeddings.count < self.min_count:
            return {}
        x = self._embeddings.joined()
        found = {
            "rankme": rankme(x),
            "effective_rank": effective_rank(x),
            "centre_norm": centre_norm(x),
            "deviation": deviation(x),
            "uniformity": float(uniformity(x[-UNIFORMITY_ROWS:])),
        }
        if self._projections.count:
            found["projection_rank"] = effective_rank(self._projections.joined())
        return found

    def state(self) -> dict[str, Any]:
        """Return all that an unbroken continuation needs, for a checkpoint."""
        return {
            "embeddings": self._embeddings.parts(),
            "projections": self._projections.parts(),
            "failures": dict(self._failures),
            "ranks": {key: list(value) for key, value in self._ranks.items()},
        }

    def restore(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Continue from what `state` returned."""
        for part in state["embeddings"]:
            self._embeddings.add(part.to(device))
        for part in state["projections"]:
            self._projections.add(part.to(device))
        self._failures = dict(state["failures"])
        self._ranks = {key: list(value) for key, value in state["ranks"].items()}

    def check(self, figures: dict[str, float]) -> list[Alarm]:
        """Return an alarm for each figure that has just been bad ``patience`` times in a row.

        Args:
            figures: those of `figures` and the method's scalars. What is not among them is not
                judged: its failures neither count nor are forgotten.
        """
        alarms = []
        for key, alarm in self._judge(figures).items():
            if alarm is None:
                self._failures[key] = 0
                continue
            self._failures[key] = self._failures.get(key, 0) + 1
            if self._failures[key] == self.patience:
                alarms.append(alarm)
        return alarms

    def _judge(self, figures: dict[str, float]) -> dict[str, Alarm | None]:
        """Return what is judged -> its alarm, or None where it is healthy."""
        judged: dict[str, Alarm | None] = {}
        if "effective_rank" in figures:
            rank = figures["effective_rank"]
            judged["rank"] = self._judge_rank(rank)
            judged["fall"] = self._judge_fall("embeddings", rank)
        if "projection_rank" in figures:
            judged["projection"] = self._judge_fall("projections", figures["projection_rank"])
        if "centre_norm" in figures:
            judged["centre"] = _judge_centre(figures["centre_norm"])
        if self.prototypes and "teacher_entropy" in figures:
            limit = math.log(self.prototypes)
            judged["entropy"] = _judge_entropy(
                figures["teacher_entropy"], limit, self.teacher_temperature
            )
        if "kl" in figures:
            judged["kl"] = _judge_kl(figures["kl"], self.teacher_temperature)
        return judged

    def _judge_rank(self, rank: float) -> Alarm | None:
        if not rank_collapsed(rank, self.min_count, self.dim):
            return None
        return Alarm(
            f"embeddings use {rank:.1f} of {self.dim} directions",
            "dimensional collapse: the loss is met by a few features",
            "lower the learning rate, raise teacher momentum or batch size, or (DINO) koleo_weight",
        )

    def _judge_fall(self, what: str, rank: float) -> Alarm | None:
        """Alarm if the rank is below 40 % of its first value and below that of the last check."""
        first, previous = self._ranks.get(what, [rank, rank])
        self._ranks[what] = [first, rank]
        if not (rank < FALLEN * first and rank < previous):
            return None
        return Alarm(
            f"{what} use {rank:.1f} directions and ever fewer, after {first:.1f} at the first"
            " check",
            "a dimensional collapse has begun: nothing holds the directions apart",
            "lower the learning rate; add a predictor or guided stop-gradient; raise koleo_weight (DINO)",
        )


def _judge_centre(norm: float) -> Alarm | None:
    if not norm > 0.95:
        return None
    return Alarm(
        f"all embeddings point one way (centre norm {norm:.3f})",
        "complete collapse, or an encoder that has not yet learnt away its common mean",
        "check centring and stop-gradient; lower the learning rate",
    )


def _judge_entropy(entropy: float, limit: float, temperature: float | None) -> Alarm | None:
    """Judge the entropy of a teacher's assignment to K prototypes.

    Args:
        entropy: of the assignment, nats.
        limit: ln K.
        temperature: of the teacher; None: not known.
    """
    if entropy > 0.99 * limit:
        return Alarm(
            f"teacher assignment is flat (entropy {entropy:.2f} of ln K = {limit:.2f})",
            "too little sharpening",
            f"lower teacher_temperature{_changed(temperature, 0.6)}, or fewer prototypes",
        )
    if entropy < 1e-4 * limit:
        return Alarm(
            f"teacher assignment is one-hot (entropy {entropy:.1e})",
            "too little centring",
            f"raise teacher_temperature{_changed(temperature, 1.7)}, or use centring=sinkhorn",
        )
    return None


def _changed(value: float | None, factor: float) -> str:
    """Return ` (0.04 now, try 0.024)`, or nothing where the value is not known."""
    return "" if value is None else f" ({value:.2g} now, try {value * factor:.2g})"


def _judge_kl(kl: float, temperature: float | None) -> Alarm | None:
    """Judge the divergence (nats) of the student from its teacher, whose temperature may be known."""
    if not abs(kl) < 1e-3:
        return None
    return Alarm(
        f"student and teacher agree on everything (KL {kl:.1e})",
        "the assignment no longer depends on the utterance",
        f"use both centring and sharpening; lower teacher_temperature{_changed(temperature, 0.6)} or the"
        " learning rate",
    )


class _LastRows:
    """The last ``size`` rows, in the parts in which they came."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.count = 0
        self._parts: deque[Tensor] = deque()

    def add(self, rows: Tensor) -> None:
        """Keep rows (N, D), and drop the oldest beyond ``size``."""
        if self._parts and self._parts[-1].shape[1] != rows.shape[1]:
            # Another stage of a method, with projections of another size.
            self._parts.clear()
            self.count = 0
        self._parts.append(rows)
        self.count += len(rows)
        while self.count - len(self._parts[0]) >= self.size:
            self.count -= len(self._parts.popleft())

    def joined(self) -> Tensor:
        """Return all rows in float32, the oldest first."""
        return torch.cat(list(self._parts)).float()

    def parts(self) -> list[Tensor]:
        """Return the parts on the CPU."""
        return [part.cpu() for part in self._parts]
