"""The loop over rounds of pseudo-labelling."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from speechssl import conf
from speechssl.config import Overrides, as_words
from speechssl.files import write_text
from speechssl.locks import sole_writer_in
from speechssl.pseudolabel.folders import PseudoLabelFolder
from speechssl.pseudolabel.rounds import Rounds
from speechssl.pseudolabel.settings import PseudoLabelSettings, read_settings
from speechssl.pseudolabel.stopping import best, is_enough, labels_used


def pseudolabel(
    config_path: str | Path,
    overrides: Overrides = (),
    *,
    out: str | Path,
    device: str = "auto",
    quiet: bool = False,
) -> dict[str, Any]:
    """Run all rounds, continuing from the results in ``out``.

    Args:
        config_path: YAML file, or the name of a configuration that comes with the package.
        overrides: settings on top of it, ``["rounds=3"]`` or ``{"rounds": 3}``.
        out: folder for all results.
        device: cpu, cuda ...
        quiet: say nothing on standard error but alarms and warnings.

    Returns:
        What ``pseudolabel.json`` holds.

    Raises:
        UserError: a mistake in settings or data, training that ended early, or another
            process writes ``out``.
    """
    settings = read_settings(str(conf.locate(config_path)), as_words(overrides))
    folder = PseudoLabelFolder(out)
    with sole_writer_in(folder.path):
        return run_rounds(settings, folder, device, quiet=quiet)


def run_rounds(
    settings: PseudoLabelSettings,
    folder: PseudoLabelFolder,
    device: str,
    *,
    quiet: bool = False,
) -> dict[str, Any]:
    """Do what ``pseudolabel`` does, as the only writer of the folder."""
    rounds = Rounds(settings, folder, device, quiet=quiet)
    results = [rounds.judge(0, settings.start)]
    stopped_by = "rounds"
    for number in range(1, settings.rounds + 1):
        model = rounds.train_round(number)
        results.append(rounds.judge(number, str(model)))
        if is_enough(settings, results):
            stopped_by = settings.stop
            break
    chosen = best(settings, results)
    chosen_model = Path(results[chosen]["model"])
    use_large_margin = bool(settings.large_margin) and chosen > 0
    if use_large_margin:
        chosen_model = rounds.large_margin(chosen)
    elif settings.large_margin:
        rounds.say(0, "no large-margin stage: it continues a round's run, and round 0 has none")
    used = labels_used(settings)
    rounds.keep(chosen_model, used)
    summary = {
        "rounds": results,
        "chosen": chosen,
        "stopped_by": stopped_by,
        "large_margin": use_large_margin,
        "model": str(folder.model.path),
        "labels_used": used,
    }
    write_text(folder.results, json.dumps(summary, indent=2) + "\n")
    return summary
