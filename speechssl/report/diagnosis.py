"""What embeddings say about a model without labels: figures with verdicts, and an order of models.

Every file of ``diagnostics/`` that computes a figure of embeddings is asked; none of them sees a
label. The order of models is the mean of their ranks under the figures that have a better end
(``Diagnostic.better``); how far to trust it is a question for the evaluation sets at hand
(``agreement``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechssl.diagnostics.acr import arc
from speechssl.diagnostics.ranks import diagnostics
from speechssl.errors import UserError


@dataclass(frozen=True)
class Finding:
    """One diagnostic of one model: its value, the healthy range, the verdict, what it tells, and
    the value of the untrained encoder where that is known.
    """

    name: str
    value: float
    low: float
    high: float
    verdict: str
    tells: str
    untrained: float | None = None


def diagnose(
    embeddings: NDArray[np.float32] | Tensor,
    views: NDArray[np.float32] | Tensor | None = None,
    untrained: NDArray[np.float32] | Tensor | None = None,
) -> list[Finding]:
    """All diagnostics that can be computed.

    Args:
        embeddings: (N, D), one an utterance; twice as many utterances as dimensions, or more, are
            wanted.
        views: (V, N, D), embeddings of V crops of each utterance.
        untrained: (V, N, D), the same crops through the untrained encoder.

    Raises:
        UserError: fewer than 3 utterances, or numbers that are not finite.
    """
    x = torch.as_tensor(embeddings)
    if x.ndim != 2 or len(x) < 3 or not bool(x.isfinite().all()):
        raise UserError(
            f"diagnose: {tuple(x.shape)} embeddings; 3 or more utterances, all finite, are needed"
        )
    crops = None if views is None else torch.as_tensor(views)
    start = None if untrained is None else torch.as_tensor(untrained)
    found = []
    for name, part in diagnostics().items():
        given, first = (
            (x, start[0] if start is not None else None)
            if part.needs == "embeddings"
            else (crops, start)
        )
        if given is None:
            continue
        value, (low, high) = part.compute(given), part.healthy(len(x), x.shape[1])
        before = None if first is None else part.compute(first)
        verdict = part.verdict(value, len(x), x.shape[1])
        found.append(Finding(name, value, low, high, verdict, part.tells, before))
    if crops is not None and start is not None:
        value = arc(crops, start)
        verdict = "undefined" if math.isnan(value) else "healthy" if value > 1 else "watch"
        tells = "crops that find their own utterance, over the untrained encoder's share"
        found.append(Finding("arc", value, 1.0, math.inf, verdict, tells, 1.0))
    return found


def table(findings: Sequence[Finding]) -> str:
    """One line a figure."""
    compared = any(f.untrained is not None for f in findings)
    head = f"{'':<24}{'value':>10}" + (f"{'untrained':>11}" if compared else "")
    lines = [f"{head}  {'healthy':<18}{'verdict':<11}what it tells"]
    for f in findings:
        before = (
            ""
            if not compared
            else f"{'-' if f.untrained is None else format(f.untrained, '.4g'):>11}"
        )
        span = f"{f.low:.3g} .. {f.high:.3g}"
        lines.append(f"{f.name:<24}{f.value:>10.4g}{before}  {span:<18}{f.verdict:<11}{f.tells}")
    return "\n".join(lines)


def verdict(findings: Sequence[Finding]) -> str:
    """One line for all: collapsed if two figures or more say so, or the rank does."""
    collapsed = [f.name for f in findings if f.verdict == "collapsed"]
    watch = [f.name for f in findings if f.verdict == "watch"]
    if len(collapsed) > 1 or "effective_rank" in collapsed or "rankme" in collapsed:
        return f"collapsed ({', '.join(collapsed)})"
    if collapsed or watch:
        return f"not collapsed; to be watched: {', '.join(collapsed + watch)}"
    return "healthy"


def write(
    findings: Sequence[Finding],
    embeddings: NDArray[np.float32],
    out: Path,
    model: str,
    others: Mapping[str, NDArray[np.float32]] | None = None,
) -> None:
    """``diagnostics.json`` and ``spectrum.png`` (of this model and of ``others``) in a folder."""
    from speechssl.report.plots import spectrum_plot

    out.mkdir(parents=True, exist_ok=True)
    rows = {f.name: {k: _plain(v) for k, v in asdict(f).items() if k != "name"} for f in findings}
    text = json.dumps({"model": model, "verdict": verdict(findings), "figures": rows}, indent=2)
    (out / "diagnostics.json").write_text(text + "\n", encoding="utf-8")
    spectrum_plot({model: embeddings, **(others or {})}, out / "spectrum.png")


def _plain(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def rank_models(figures: Mapping[str, Mapping[str, float]]) -> list[tuple[str, float]]:
    """Models, best first, with their mean rank (1 = best) over the figures that have a better end.

    Args:
        figures: model -> diagnostic -> value. A figure that is undefined for a model ranks it last.
    """
    parts = {name: part.better for name, part in diagnostics().items() if part.better}
    names = list(figures)
    ranks = np.zeros((len(parts), len(names)))
    used = []
    for row, (name, better) in enumerate(parts.items()):
        values = np.array([figures[model].get(name, math.nan) for model in names], dtype=float)
        if np.isnan(values).all():
            continue
        used.append(row)
        worst = -np.inf
        keys = np.where(np.isnan(values), worst, values if better == "higher" else -values)
        ranks[row] = [1 + (keys > key).sum() + ((keys == key).sum() - 1) / 2 for key in keys]
    if not used:
        raise UserError("diagnose: no figure with a better end is known of these models")
    means = ranks[used].mean(0)
    return sorted(zip(names, means.tolist(), strict=True), key=lambda pair: pair[1])


def agreement(values: Sequence[float], eers: Sequence[float]) -> float:
    """Spearman's rank correlation of a criterion (lower = better) with EERs; NaN below 3 models."""
    from scipy.stats import spearmanr

    if len(values) < 3 or len(set(values)) < 2 or len(set(eers)) < 2:
        return math.nan
    return float(spearmanr(values, eers).statistic)
