"""Iterative pseudo-labelling: embed -> cluster -> filter -> train on the clusters, and again.

The second half of Cho et al. 2022 (4.38 to 1.89 % EER) and of the systems in recipes/README.md 5. No label
is read: the classes of every round are clusters of the embeddings of the model before it. Rounds
end after a number of them, by a label-free criterion, or by a held-out trial list, which the
results then name; the trials that a result is reported on are never looked at.

    OUT/config.yaml, pseudolabel.json      settings; what came of each round
    OUT/round-0/embeddings.npz, clusters/  of the model to start from
    OUT/round-1/train/                     the run on round 0's clusters; embeddings and clusters of its model
    OUT/round-1/large-margin/              if asked for, of the round that was chosen
    OUT/model/                             the chosen model

What is there is not made again, so a run that was killed goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from speechssl.pseudolabel.rounds import Rounds
from speechssl.pseudolabel.settings import PseudoLabelSettings, read
from speechssl.pseudolabel.stopping import best, is_enough

__all__ = ["PseudoLabelSettings", "pseudolabel"]


def pseudolabel(
    config_path: str, overrides: Sequence[str] = (), *, out: str | Path, device: str = "auto"
) -> dict[str, Any]:
    """Run the rounds, going on from what ``out`` holds; returns what ``pseudolabel.json`` says.

    Raises:
        UserError: whatever a user can mend.
    """
    settings = read(config_path, overrides)
    loop = Rounds(settings, Path(out), device)
    rounds = [loop.judge(0, settings.start)]
    why = "rounds"
    for number in range(1, settings.rounds + 1):
        rounds.append(loop.judge(number, str(loop.train_round(number))))
        if is_enough(settings, rounds):
            why = settings.stop
            break
    chosen = best(settings, rounds)
    model = Path(rounds[chosen]["model"])
    if settings.large_margin and chosen:
        model = loop.large_margin(chosen)
    elif settings.large_margin:
        loop.say(
            0, "large margin left out: it goes on from a round's run, and the start was the best"
        )
    used = [f"held-out trials ({settings.heldout})"] if settings.stop == "eer" else []
    loop.keep(model, used)
    results = {
        "rounds": rounds,
        "chosen": chosen,
        "stopped_by": why,
        "large_margin": bool(settings.large_margin and chosen),
        "model": str(loop.out / "model"),
        "labels_used": used,
    }
    (loop.out / "pseudolabel.json").write_text(
        json.dumps(results, indent=2) + "\n", encoding="utf-8"
    )
    return results
