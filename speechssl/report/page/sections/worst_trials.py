"""The trials that a system gets most wrong, to listen to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from speechssl.report.page.blocks import Block, Pair, Pairs, Side, Text
from speechssl.report.page.material import Material, ScoredTrials, SystemEvaluation
from speechssl.report.page.section import Section

EACH = 4
"""Trials of a kind that are shown."""

MOST_LISTS = 3
"""Trial lists that are looked at."""


def build(material: Material) -> Sequence[Block]:
    """Return the highest non-targets and lowest targets of the best system of each list."""
    blocks: list[Block] = []
    for one in _best(material.evaluations)[:MOST_LISTS]:
        assert one.scored is not None
        blocks += _of(material, one, one.scored)
    if blocks and not material.clips.utterances:
        text = "Name the data with --data DIR (a Kaldi directory) to hear and see these trials."
        blocks.insert(0, Text(text, "note"))
    return blocks


def _best(evaluations: Sequence[SystemEvaluation]) -> list[SystemEvaluation]:
    best: dict[str, SystemEvaluation] = {}
    for one in evaluations:
        before = best.get(one.results.trials)
        is_better = before is None or one.results.results["eer"] < before.results.results["eer"]
        if one.scored is not None and is_better:
            best[one.results.trials] = one
    return list(best.values())


def _of(material: Material, one: SystemEvaluation, scored: ScoredTrials) -> list[Block]:
    target = scored.trials.target
    order = np.argsort(scored.scores, kind="stable")
    kinds = {
        "Non-targets with the highest scores (other speakers that it takes for one)": order[
            ~target[order]
        ][::-1],
        "Targets with the lowest scores (one speaker that it takes for two)": order[target[order]],
    }
    blocks: list[Block] = []
    for title, places in kinds.items():
        pairs = [_pair(material, scored, place) for place in _varied(scored, places.tolist())]
        caption = (
            f"{one.system}, trial list {one.results.trials}; each utterance once. Mel spectrograms,"
            " 0 to 8 kHz."
        )
        blocks.append(Pairs(title, caption, pairs))
    return blocks


def _varied(scored: ScoredTrials, places: Sequence[int]) -> list[int]:
    """Return the first `EACH` places whose utterances have not been shown, or fewer."""
    chosen: list[int] = []
    shown: set[str] = set()
    for place in places:
        pair = {str(scored.trials.enrol[place]), str(scored.trials.test[place])}
        if not pair & shown:
            shown |= pair
            chosen.append(place)
        if len(chosen) == EACH:
            break
    return chosen


def _pair(material: Material, scored: ScoredTrials, place: int) -> Pair:
    sides = []
    for name in (str(scored.trials.enrol[place]), str(scored.trials.test[place])):
        clip = material.clips.add(name)
        sides.append(Side(name, clip, material.clips.picture(name) if clip else ""))
    return Pair(f"score {scored.scores[place]:.3f}", *sides)


SECTION = Section("The worst trials", 45, build)
