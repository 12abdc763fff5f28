"""The settings of the rounds, checked before hours are spent on them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from speechssl import conf, config
from speechssl.data.trials import read_trials
from speechssl.errors import UserError
from speechssl.model import Model
from speechssl.train.settings import resolve


@dataclass(frozen=True, kw_only=True)
class PseudoLabelSettings:
    """What ``speechssl pseudolabel CONFIG`` reads.

    Attributes:
        start: model folder, of self-supervised training.
        data: Kaldi directories to cluster and to train on; no label file is opened.
        train: YAML file (or the name of a shipped one) of the training on pseudo-labels
            (``method: aam_softmax``); overrides: settings over it. This program sets data.train,
            data.pseudo_labels and train.init.
        large_margin: YAML file of a last stage that goes on from the chosen round's run, and
            settings over it (large_margin_overrides).
        rounds: at most so many; 0: only embed and cluster with the start.
        init: what each round's encoder starts from: the model of the start, of the round before, or
            random weights (then encoder and features are those of ``train``, otherwise those of
            ``start``).
        clusterer: name and settings (`speechssl list clustering`).
        pca, smallest, largest, share: what comes before and after it (`speechssl cluster`).
        stop: ``never`` before the rounds are over; ``agreement``: when NMI between the clusters of
            two rounds reaches ``agreement``; ``silhouette``: when it no longer rises, and the round
            before is chosen; ``eer``: the same with the EER on ``heldout``, a Kaldi directory with
            trials that are not tested.
        precision, readers: of embedding.
        processes: that embed and train together, each with a GPU of its own where there are GPUs.
    """

    start: str
    data: list[str]
    train: str
    clusterer: dict[str, Any]
    overrides: list[str] | None = None
    rounds: int = 2
    init: Literal["start", "previous", "random"] = "start"
    pca: float = 0.0
    smallest: int = 1
    largest: int = 0
    share: float = 1.0
    stop: Literal["never", "agreement", "silhouette", "eer"] = "never"
    agreement: float = 0.98
    heldout: str | None = None
    large_margin: str | None = None
    large_margin_overrides: list[str] | None = None
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    readers: int = 2
    processes: int = 1


def read(path: str, overrides: Sequence[str] = ()) -> PseudoLabelSettings:
    """The settings of a YAML file and `key=value` overrides; raises UserError for what cannot
    work.
    """
    values = config.check(PseudoLabelSettings, config.read(path, overrides), "pseudolabel")
    settings = PseudoLabelSettings(**values)
    if settings.rounds < 0 or settings.processes < 1 or not settings.data:
        raise UserError(
            f"pseudolabel: rounds={settings.rounds}, processes={settings.processes},"
            f" data={settings.data}: give 0 or more, 1 or more, and a directory"
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            "pseudolabel: it starts its own processes; set processes=N and leave torchrun out"
        )
    if settings.stop == "eer" and not settings.heldout:
        raise UserError(
            "pseudolabel: stop=eer needs heldout=DIR, a Kaldi directory with trials of its own"
        )
    if settings.heldout:
        read_trials(Path(settings.heldout) / "trials")
    start = sections(Model.load(settings.start))  # what later stages need is looked at now
    for file, more in (
        (settings.train, settings.overrides),
        (settings.large_margin, settings.large_margin_overrides),
    ):
        if file:
            resolve(str(conf.locate(file)), [*(more or ()), *start, "data.train=[later]"])
    return settings


def sections(model: Model) -> list[str]:
    """The model's encoder and features, as overrides of a training configuration."""
    return [
        f"encoder={json.dumps(config.thaw(model.settings['encoder']))}",
        f"features={json.dumps(config.thaw(model.settings['features']))}",
    ]
