"""Judge models without labels: figures of their embeddings with verdicts, and an order of models.

Every file of ``diagnostics/`` that computes a figure of embeddings takes part; none of them sees a
label. The order of models is the mean of their ranks under the figures where lower or higher is
better (``Diagnostic.better``); ``agreement`` says how far that order is that of the error rates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechssl.diagnostics.acr import arc
from speechssl.diagnostics.ranks import diagnostics
from speechssl.errors import UserError, writing
from speechssl.interfaces import Diagnostic
from speechssl.report.results import write_json


@dataclass(frozen=True)
class Finding:
    """One diagnostic of one model.

    Attributes:
        name: of the diagnostic.
        value: NaN where it is undefined.
        low: lowest healthy value.
        high: highest healthy value.
        verdict: ``healthy``, ``watch``, ``collapsed`` or ``undefined``.
        tells: one line on what the figure tells.
        untrained: the value of the untrained encoder, where it is known.
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
    """Compute all diagnostics that the given embeddings allow.

    Args:
        embeddings: (N, D), one an utterance; N should be at least twice D.
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
    untrained_crops = None if untrained is None else torch.as_tensor(untrained)
    untrained_x = None if untrained_crops is None else untrained_crops[0]
    findings = []
    for name, diagnostic in diagnostics().items():
        if diagnostic.needs == "embeddings":
            findings.append(_finding(name, diagnostic, x, untrained_x))
        elif crops is not None:
            findings.append(_finding(name, diagnostic, crops, untrained_crops))
    if crops is not None and untrained_crops is not None:
        findings.append(_arc_finding(arc(crops, untrained_crops)))
    return findings


def _finding(name: str, diagnostic: Diagnostic, x: Tensor, untrained: Tensor | None) -> Finding:
    """Compute one diagnostic of (N, D) embeddings or (V, N, D) views."""
    count, dim = x.shape[-2:]
    value = diagnostic.measure(x)
    low, high = diagnostic.healthy(count, dim)
    before = None if untrained is None else diagnostic.measure(untrained)
    verdict = diagnostic.verdict(value, count, dim)
    return Finding(name, value, low, high, verdict, diagnostic.tells, before)


def _arc_finding(value: float) -> Finding:
    """Judge ARC (methods/README.md 10): above 1, training made crops easier to tell apart.

    Collapsed embeddings have an ARC near 0. In the figure of the method's authors ARC rises and
    falls with the accuracy (1 to 3), and is below 1 for the strongest augmentation only.
    """
    verdict = "watch"
    if math.isnan(value):
        verdict = "undefined"
    elif value > 1:
        verdict = "healthy"
    tells = "crops that find their own utterance, over the untrained encoder's share"
    return Finding("arc", value, 1.0, math.inf, verdict, tells, 1.0)


def table(findings: Sequence[Finding]) -> str:
    """Return a table with one line a figure; with a column for the untrained encoder if known."""
    has_untrained = any(finding.untrained is not None for finding in findings)
    untrained_head = f"{'untrained':>11}" if has_untrained else ""
    lines = [f"{'':<24}{'value':>10}{untrained_head}  {'healthy':<18}{'verdict':<11}what it tells"]
    for finding in findings:
        untrained = ""
        if has_untrained:
            known = "-" if finding.untrained is None else f"{finding.untrained:.4g}"
            untrained = f"{known:>11}"
        span = f"{finding.low:.3g} .. {finding.high:.3g}"
        lines.append(
            f"{finding.name:<24}{finding.value:>10.4g}{untrained}"
            f"  {span:<18}{finding.verdict:<11}{finding.tells}"
        )
    return "\n".join(lines)


RULE = "rule: collapsed if the rank says so, or two other figures or more; one is to be watched"
"""What `verdict` goes by, for readers of the table."""


def verdict(findings: Sequence[Finding]) -> str:
    """Return one line for all: collapsed if two figures or more say so, or the rank does.

    It is undefined if every figure is.
    """
    collapsed = [finding.name for finding in findings if finding.verdict == "collapsed"]
    watch = [finding.name for finding in findings if finding.verdict == "watch"]
    if len(collapsed) > 1 or "effective_rank" in collapsed or "rankme" in collapsed:
        return f"collapsed ({', '.join(collapsed)})"
    if collapsed or watch:
        return f"not collapsed; to be watched: {', '.join(collapsed + watch)}"
    if all(finding.verdict == "undefined" for finding in findings):
        return "undefined: no figure could be computed"
    return "healthy"


def write(
    findings: Sequence[Finding],
    embeddings: NDArray[np.float32],
    out: Path,
    model: str,
    others: Mapping[str, NDArray[np.float32]] | None = None,
) -> None:
    """Write ``diagnostics.json`` and ``spectrum.png`` into a folder.

    Args:
        findings: from ``diagnose``.
        embeddings: (N, D) of the model.
        out: the folder, made if need be.
        model: name of the model.
        others: name -> embeddings whose spectra are drawn as well.
    """
    from speechssl.report.plots import spectrum_plot

    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    figures = {finding.name: _as_json(finding) for finding in findings}
    data = {"model": model, "verdict": verdict(findings), "figures": figures}
    spectrum_plot({model: embeddings, **(others or {})}, out / "spectrum.png")
    write_json(out / "diagnostics.json", data)  # last: what has it is taken for done


def _as_json(finding: Finding) -> dict[str, Any]:
    """Return a finding without its name; what is not finite becomes None."""
    row = asdict(finding)
    del row["name"]
    for key, value in row.items():
        if isinstance(value, float) and not math.isfinite(value):
            row[key] = None
    return row


def rank_models(figures: Mapping[str, Mapping[str, float]]) -> list[tuple[str, float]]:
    """Order models by their mean rank over the figures where lower or higher is better.

    Args:
        figures: model -> diagnostic -> value. A figure that is undefined for a model ranks it last.

    Returns:
        Models, best first, with their mean rank (1 = best).

    Raises:
        UserError: none of these figures is known of the models.
    """
    models = list(figures)
    ranks = []
    for name, diagnostic in diagnostics().items():
        values = np.array([figures[model].get(name, math.nan) for model in models], dtype=float)
        if diagnostic.better and not np.isnan(values).all():
            ranks.append(_ranks(values if diagnostic.better == "higher" else -values))
    if not ranks:
        raise UserError("diagnose: no figure of these models says which one is better")
    means = np.mean(ranks, axis=0)
    return sorted(zip(models, means.tolist(), strict=True), key=lambda pair: pair[1])


def _ranks(values: NDArray[np.float64]) -> list[float]:
    """Return the rank of each value, 1 = highest; equal values share their mean rank, NaN is last."""
    keys = np.where(np.isnan(values), -np.inf, values)
    return [1 + (keys > key).sum() + ((keys == key).sum() - 1) / 2 for key in keys]


def agreement(values: Sequence[float], eers: Sequence[float]) -> float:
    """Return Spearman's rank correlation of a criterion (lower = better) with EERs.

    NaN below 3 models, or where all values, or all EERs, are equal.
    """
    from scipy.stats import spearmanr

    if len(values) < 3 or len(set(values)) < 2 or len(set(eers)) < 2:
        return math.nan
    return float(spearmanr(values, eers).statistic)
