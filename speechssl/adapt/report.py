"""The report of an adaptation, in plain lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from speechssl.adapt.folders import AdaptFolder
from speechssl.adapt.judging import Judgement
from speechssl.adapt.settings import AdaptSettings


def line(way: str, judged: Judgement) -> str:
    """Return one line about a changed model."""
    low, high = judged.gain
    verdict = "better" if judged.is_better else "not better beyond chance"
    if judged.loses:
        verdict = "not kept, because one of both has grown"
    if judged.gain[1] < 0:
        verdict = "worse"
    if judged.collapsed:
        verdict = "collapsed"
    together = ""
    if judged.together is not None and judged.together_before is not None:
        together = f", together {judged.together:.2f} % (before: {judged.together_before:.2f} %)"
    return (
        f"{way}: confusion apart {judged.apart:.2f} % (before: {judged.apart_before:.2f} %)"
        f"{together}, gain [{low:.2f}, {high:.2f}] points, effective rank {judged.rank:.0f} (before:"
        f" {judged.rank_before:.0f}): {verdict}"
    )


def lines(
    results: Mapping[str, Any],
    judged: Mapping[str, Judgement],
    settings: AdaptSettings,
    folder: AdaptFolder,
) -> list[str]:
    """Return what was done, what was found, and what cannot be known without labels.

    Args:
        results: what `results.json` holds.
        judged: way -> how its model compares.
        settings: what was asked for.
        folder: of the adaptation.
    """
    learnt = results["recordings"]["learnt_from"]
    held = results["recordings"]["held_out"]
    plan = results["plan"]
    kept = results["kept"]
    report = [
        f"Learnt from {learnt['recordings']} recordings ({learnt['pieces']} pieces,"
        f" {learnt['hours']:.2f} h); {held['recordings']} others ({held['pieces']} pieces) judged."
    ]
    if not plan["ways"]:
        report.append(
            f"{learnt['pieces']} pieces are too few to learn from; nothing was tried (--way tries it"
            " all the same)."
        )
    report += [line(way, judgement) for way, judgement in judged.items()]
    for way, reason in results["left_out"].items():
        report.append(f"{way}: left out ({reason})")
    if kept == "before":
        report.append(f"Kept: before. {folder.model.path} is {settings.start} as it was.")
    else:
        report.append(f"Kept: {kept}, in {folder.model.path}.")
        report.append(
            "Its scores mean something else than before: thresholds have to be fitted again"
            " (speechssl calibrate)."
        )
    report.append(
        "Known, of held-out recordings: how often windows of other recordings are nearer to a window"
        " than the next one of its own recording through another channel (apart), and than those of"
        " recordings that either model puts into its cluster (together). No label was read."
    )
    report.append(
        "Not known: which recordings really share a voice, whether one recording holds several people,"
        " and the error on your task: only trials with answers tell (speechssl evaluate verification)."
    )
    return report
