"""The settings of pseudo-labelling, checked before hours are spent on it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from speechssl import conf, config
from speechssl.audio.remotes import Remotes
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
        remote: prefixes of the addresses that these directories and ``heldout`` may
            name, such as ``[s3://bucket/]``.
        train: YAML file, or the name of a shipped one, of the training on pseudo-labels
            (``method: aam_softmax``). This program sets data.train, data.pseudo_labels
            and train.init.
        overrides: settings that replace those of ``train``.
        large_margin: YAML file of a last stage that continues the chosen round's run.
        large_margin_overrides: settings that replace those of ``large_margin``.
        rounds: largest number of rounds; 0: only embed and cluster with the start.
        init: what each round's encoder starts from: the model of the ``start``, of the
            ``previous`` round, or ``random`` weights (then encoder and features are
            those of ``train``, otherwise those of ``start``).
        clusterer: name and settings (`speechssl list clustering`).
        pca: reduction before clustering, as for `speechssl cluster`.
        min_cluster_size, max_cluster_size: other clusters are dropped (0: no upper
            limit).
        keep_fraction: share of each cluster's members that is kept, those nearest to
            its mean.
        stop: ``never`` before all rounds are done; ``agreement``: when NMI between the
            clusters of two rounds reaches ``agreement``; ``silhouette``: when it no
            longer rises, and the round before is chosen; ``eer``: the same with the EER
            on ``heldout``.
        agreement: see ``stop``.
        heldout: Kaldi directory with trials that no result is reported on.
        precision, readers: of embedding, as `speechssl embed` takes them.
        streamed: keep the embeddings of a round in a folder of parquet files, which
            ``processes`` cluster together and none holds whole (kmeans, kmeans_ahc).
        processes: that embed and train together, each with a GPU of its own where there
            are GPUs.
        launch: words that start the processes of a command, which follows them, in place of
            torchrun on this machine: `[bash, recipes/launch/slurm.sh, --nodes, "4", --per-node,
            "8", --]` (recipes/launch); then ``processes`` does not count.
        allow_code: packages outside this one whose parts the start's folder may name.
    """

    start: str
    data: tuple[str, ...]
    train: str
    clusterer: dict[str, Any]
    remote: tuple[str, ...] = ()
    overrides: list[str] | None = None
    rounds: int = 2
    init: Literal["start", "previous", "random"] = "start"
    pca: float = 0.0
    min_cluster_size: int = 1
    max_cluster_size: int = 0
    keep_fraction: float = 1.0
    stop: Literal["never", "agreement", "silhouette", "eer"] = "never"
    agreement: float = 0.98
    heldout: str | None = None
    large_margin: str | None = None
    large_margin_overrides: list[str] | None = None
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    readers: int | None = None
    streamed: bool = False
    processes: int = 1
    launch: list[str] | None = None
    allow_code: list[str] | None = None

    RENAMED: ClassVar[dict[str, str]] = {
        "smallest": "min_cluster_size",
        "largest": "max_cluster_size",
        "share": "keep_fraction",
    }


def read_settings(path: str, overrides: Sequence[str] = ()) -> PseudoLabelSettings:
    """Read and check the settings, the files that they name, and the configurations of training.

    Args:
        path: YAML file.
        overrides: ``key=value`` pairs on top of it.

    Raises:
        UserError: a setting is unknown or out of range, or a later stage could not work
            with it.
    """
    settings = config.build(PseudoLabelSettings, config.read(path, overrides), "pseudolabel")
    if settings.rounds < 0:
        raise UserError(f"pseudolabel: rounds={settings.rounds} must be at least 0")
    if settings.processes < 1:
        raise UserError(f"pseudolabel: processes={settings.processes} must be at least 1")
    if not settings.data:
        raise UserError("pseudolabel: data is empty; name at least one Kaldi directory")
    Remotes(settings.remote)
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
    start = [
        *model_overrides(Model.load(settings.start, allow_code=settings.allow_code or ())),
        "data.train=[later]",
    ]
    resolve(str(conf.locate(settings.train)), [*(settings.overrides or ()), *start])
    if settings.large_margin:
        resolve(
            str(conf.locate(settings.large_margin)),
            [*(settings.large_margin_overrides or ()), *start],
        )
    return settings


def model_overrides(model: Model) -> list[str]:
    """Return the model's encoder and features as overrides of a training configuration."""
    return [
        f"encoder={json.dumps(config.thaw(model.settings['encoder']))}",
        f"features={json.dumps(config.thaw(model.settings['features']))}",
    ]
