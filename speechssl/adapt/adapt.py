"""The course of an adaptation, from recordings to the model that is kept."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

from speechssl import foreign
from speechssl.adapt import judging, recordings, report
from speechssl.adapt.folders import AdaptFolder
from speechssl.adapt.judging import Judgement
from speechssl.adapt.pairs import Pairs, embed_pairs
from speechssl.adapt.settings import AdaptSettings, plan_for, write_settings
from speechssl.adapt.ways import WAYS, Adaptation, say
from speechssl.embed.embedder import Embedder
from speechssl.embed.networks import load_model
from speechssl.errors import UserError
from speechssl.files import model_folder, write_text
from speechssl.locks import sole_writer_in
from speechssl.model import Model
from speechssl.speakers import calibration

BEFORE = "before"
"""Name of the model to start from, in the results."""


def adapt(settings: AdaptSettings, out: str | Path, device: str = "auto") -> dict[str, Any]:
    """Adapt a model to recordings without labels, and keep the better of before and after.

    Args:
        settings: what is asked for.
        out: folder for all results; what is there already is not made again.
        device: cpu, cuda ..., or auto.

    Returns:
        What `results.json` holds: `kept` (`before` or the name of a way), `model`, `labels_used`,
        the figures of each way, the plan, and the lines of the report.

    Raises:
        UserError: too few recordings, a model that cannot be trained, other settings than those
            that the folder was begun with, or another process that writes it.
    """
    folder = AdaptFolder(out)
    with sole_writer_in(folder.path):
        write_settings(folder, settings)
        return _adapt(settings, folder, device)


def _adapt(settings: AdaptSettings, folder: AdaptFolder, device: str) -> dict[str, Any]:
    """Do what `adapt` does, as the only writer of the folder."""
    start = _start(settings, folder)
    recordings.prepare(folder, settings.audio, settings.vad, settings.seed, settings.channels)
    train, heldout = recordings.read(folder)
    plan = plan_for(settings, [piece.seconds for piece in train])
    work = Adaptation(settings, plan, folder, start, train, device)
    before = _heldout_pairs(work, BEFORE, start, heldout)
    models: dict[str, Path] = {}
    judged: dict[str, Judgement] = {}
    left_out: dict[str, str] = {}
    for way in plan.ways:
        try:
            models[way] = WAYS[way](work)
        except UserError as error:
            if settings.ways:  # it was asked for
                raise
            left_out[way] = str(error)
            continue
        after = _heldout_pairs(work, way, models[way], heldout)
        judged[way] = judging.compare(before, after, models=len(plan.ways), seed=settings.seed)
        say(report.line(way, judged[way]))
    kept = best(judged)
    _keep(work, kept, models.get(kept, start))
    results = {
        "kept": kept,
        "model": str(folder.model.path),
        "labels_used": work.load(start).about.get("labels_used", "not known"),
        "seed": settings.seed,
        "recordings": _counts(train, heldout),
        "plan": dataclasses.asdict(plan),
        "ways": {way: _figures(judgement) for way, judgement in judged.items()},
        "left_out": left_out,
    }
    results["report"] = report.lines(results, judged, settings, folder)
    write_text(folder.report, "\n".join(results["report"]) + "\n")
    write_text(folder.results, json.dumps(results, indent=2, allow_nan=False) + "\n")
    return results


def best(judged: dict[str, Judgement]) -> str:
    """Return the way with the smallest confusions among those that are better; `before` if none is."""
    better = [way for way, judgement in judged.items() if judgement.is_better]
    return min(better, key=lambda way: judged[way].total, default=BEFORE)


def _start(settings: AdaptSettings, folder: AdaptFolder) -> Path:
    """Write the model to start from into the folder, and return where it is.

    Raises:
        UserError: there is none, or it has nothing to train.
    """
    path = folder.candidate(BEFORE).model.path
    if folder.candidate(BEFORE).model.existing() is None:
        model = load_model(settings.start, allow_code=settings.allow_code)
        if not any(weights.requires_grad for weights in model.encoder.parameters()):
            raise UserError(
                f"adapt: {settings.start} has no weights to train, so there is nothing to adapt;"
                " start from small, or another trained model"
            )
        model.save(path)
    return path


def _heldout_pairs(work: Adaptation, name: str, model: Path, heldout: list[Any]) -> Pairs:
    """Return the embeddings of the held-out windows by a model, from its folder if they are there."""
    file = work.folder.candidate(name).pairs
    if not file.exists():
        say(f"{name}: embed {len(heldout)} held-out pieces")
        embedder = Embedder(work.load(model), work.device)
        seed = work.settings.seed
        pairs = embed_pairs(embedder, heldout, work.plan.window, seed, work.augment())
        pairs.write(file)
    return Pairs.read(file)


def _keep(work: Adaptation, kept: str, path: Path) -> None:
    """Write the model that is kept; the start's thresholds stay with it only if nothing changed."""
    model: Model = work.load(path)
    about = dict(work.load(work.start).about) | dict(model.about)
    about["adapted"] = {"from": work.settings.start, "kept": kept, "seed": work.settings.seed}
    about["labels_used"] = work.load(work.start).about.get("labels_used", "not known")
    model.about = about
    target = work.folder.model
    model.save(target.path)
    (target.path / calibration.FILE).unlink(missing_ok=True)
    if kept == BEFORE:
        start = model_folder(foreign.locate(work.settings.start)).path / calibration.FILE
        if start.is_file():
            shutil.copyfile(start, target.path / calibration.FILE)


def _counts(train: list[Any], heldout: list[Any]) -> dict[str, Any]:
    """Return recordings, pieces and hours on both sides."""
    counts = {}
    for name, pieces in (("learnt_from", train), ("held_out", heldout)):
        counts[name] = {
            "recordings": len({piece.path for piece in pieces}),
            "pieces": len(pieces),
            "hours": round(sum(piece.seconds for piece in pieces) / 3600, 3),
        }
    return counts


def _figures(judgement: Judgement) -> dict[str, Any]:
    """Return a judgement for results.json; JSON has no NaN and no infinity: null, and the reason."""
    figures: dict[str, Any] = dataclasses.asdict(judgement)
    reasons = {}
    for name, value in figures.items():
        numbers = value if isinstance(value, tuple) else (value,)
        if not all(number is None or math.isfinite(number) for number in numbers):
            figures[name] = None
            reasons[name] = _why_not_finite(judgement)
    if reasons:
        figures["not_measured"] = reasons
    return {
        **figures,
        "is_better": judgement.is_better,
        "collapsed": judgement.collapsed,
        "loses": judgement.loses,
    }


def _why_not_finite(judgement: Judgement) -> str:
    if math.isfinite(judgement.apart) and math.isfinite(judgement.apart_before):
        return "too few held-out recordings for an interval"
    return "a model gives embeddings that are not finite: its training diverged"
