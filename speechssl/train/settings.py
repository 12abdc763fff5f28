"""The configuration of a training run: its sections, checked together and then read-only."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from speechssl import config, parts
from speechssl.audio.remotes import Remotes
from speechssl.augment.augment import Augment
from speechssl.augment.specaugment import SpecAugment
from speechssl.compat import choose_precision
from speechssl.config import check_above_zero, check_fraction
from speechssl.errors import UserError
from speechssl.features import with_default_name
from speechssl.nn.products import choose_kernel
from speechssl.train.optimizers import OptimizerSettings
from speechssl.train.tracking import check_trackers


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Section ``data``.

    Attributes:
        train: Kaldi directories; only their audio is used, no label file is opened.
        remote: prefixes of the addresses that these directories may name, such as
            ``[s3://bucket/]``; others are left out.
        crops: the crop plan, a list of ``{count, seconds, augment, to}``.
        far_apart_prob: probability of taking the two long crops far apart, at the smallest
            and the largest of five random offsets (methods/README.md 1.3).
        disjoint: take the teacher's and the student's crops from parts of the utterance
            that do not overlap.
        weight_by_duration: visit utterances in proportion to their duration, in place
            of once an epoch.
        replacement: draw the utterances of an epoch with replacement, as many as there
            are, in place of each once (the sampler of Cho et al. 2022).
        order: ``shuffled``: every epoch has all utterances; ``single_pass``,
            ``accumulate``, ``hybrid``: the data as a stream, against the collapse of
            dimensions in small encoders (methods/README.md 4.4).
        single_pass_share: share of the run that ``hybrid`` begins with.
        source_shares: share of the visits that each directory of ``train`` gets, such as
            ``[1, 2, 1]``; empty: by ``source_temperature``.
        source_temperature: a directory of n utterances (seconds, with
            ``weight_by_duration``) gets visits in proportion to n ** (1 / temperature): 1: by
            its size, 2: by its root, the larger the more alike.
        shards_at_once: with shards (`speechssl shard`), how many of them are mixed at a
            time, so that a spinning disk or a remote store reads a few files at once;
            null: all of them.
        reading: ``random``: each utterance is read where it lies; ``stream``: shards
            (`speechssl shard`) are read one behind the other through a shuffle buffer,
            and those behind addresses are fetched to a local disk before they are needed
            (`data/sequential.py`).
        shuffle_buffer: utterances of a process among which ``stream`` mixes.
        cache: folder for the copies of shards of ``stream``; null: the user's cache folder.
        cache_gb: GB that the copies may take.
        requests: utterances that a loader process reads at a time; 0: 16 where some are
            behind addresses, otherwise 1.
        decoded_gb: GB for utterances of up to a minute that are decoded once and kept with
            16 bits (an hour is 0.115 GB), in a temporary file ($TMPDIR) that all processes
            of a machine share; 0: none; ``auto``: up to a quarter of the memory, where the run
            comes to most utterances twice.
        positives: file of `utterance group` lines: with probability ``positives_prob``
            a teacher's crop comes from another recording of the same group.
        positives_kind: what these groups are: ``cluster``: pseudo-labels of an earlier
            model, from `speechssl cluster`; ``session``: recordings of one occasion (a
            call, a video, a chapter; utt2session), which are no labels of speakers.
            ``about.yaml`` says which were used.
        mask_positives: two utterances of one group are no negatives of each other, in
            every method that has negatives.
        pseudo_labels: file of the same kind: the classes that ``method=aam_softmax``
            learns. Utterances that are not in it are left out.
        min_seconds: shorter utterances are left out (and counted).
        workers: loader processes; -1: chosen from the number of cores.
        timeout: seconds after which a loader that gives no batch is an error.
    """

    train: tuple[str, ...]
    crops: tuple[dict[str, Any], ...]
    remote: tuple[str, ...] = ()
    far_apart_prob: float = 0.0
    disjoint: bool = False
    weight_by_duration: bool = False
    replacement: bool = False
    order: Literal["shuffled", "single_pass", "accumulate", "hybrid"] = "shuffled"
    single_pass_share: float = 0.4
    source_shares: tuple[float, ...] = ()
    source_temperature: float = 1.0
    shards_at_once: int | None = None
    reading: Literal["random", "stream"] = "random"
    shuffle_buffer: int = 10_000
    cache: str | None = None
    cache_gb: float = 50.0
    requests: int = 0
    decoded_gb: Any = "auto"
    positives: str | None = None
    positives_prob: float = 0.5
    positives_kind: Literal["cluster", "session"] = "cluster"
    mask_positives: bool = True
    pseudo_labels: str | None = None
    min_seconds: float = 0.5
    workers: int = -1
    timeout: float = 300.0

    RENAMED: ClassVar[dict[str, str]] = {"overlap": "far_apart_prob"}

    def __post_init__(self) -> None:
        if not self.train:
            raise UserError("config: data.train is empty; name at least one Kaldi directory")
        _check_sources(self)
        _check_decoded_gb(self.decoded_gb)
        Remotes(self.remote)


def _check_decoded_gb(value: Any) -> None:
    """Raise UserError unless ``data.decoded_gb`` is ``auto`` or a finite number of at least 0."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value != "auto" and not (number and 0 <= value < math.inf):
        raise UserError(
            f"config: data.decoded_gb must be auto or a number of at least 0, not {value!r}"
        )


def _check_sources(data: DataSettings) -> None:
    """Raise UserError if the shares of the directories do not fit ``train``."""
    check_above_zero("data.source_temperature", data.source_temperature)
    if not data.source_shares:
        return
    if len(data.source_shares) != len(data.train):
        raise UserError(
            f"config: data.source_shares has {len(data.source_shares)} numbers, data.train"
            f" {len(data.train)} directories; give one for each"
        )
    if min(data.source_shares) < 0 or max(data.source_shares) <= 0:
        raise UserError(
            f"config: data.source_shares must be numbers of at least 0, one above 0, not"
            f" {list(data.source_shares)}"
        )


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Section ``train``.

    Attributes:
        epochs, steps: length of the run; give one of the two.
        batch_size: utterances of one device in one forward pass.
        gradient_accumulation_steps: forward passes of one optimiser step.
        precision: of the encoder's matrix products; ``auto``: bfloat16 where the
            hardware has instructions for it, else float32. Losses and statistics stay
            in float32.
        float32_kernel: which library computes float32 products on a CPU; ``auto``: the
            faster one on this processor (`nn.products`).
        log_every, save_every: optimiser steps between two logs and between two saves. A
            save keeps the state to resume from and one snapshot of the encoder.
        keep: how many snapshots stay, the last ones.
        init: model or run folder whose encoder training starts from.
        init_method: run folder whose whole method (encoder, heads, classes) training
            starts from, with a new optimiser and schedule, as large-margin fine-tuning
            does.
        encode: which crops BatchNorm of the encoder sees together: ``joint``: all of one
            length; ``per_view``: one view of each utterance at a time, as in the
            programs of SimSiam, BYOL, MoCo, Barlow Twins and VICReg.
        local_blocks: local training (LoCo): a list of runs of the encoder's stages, such as
            ``[[1, 2], [2, 3], [3, 4]]``, each with a loss of its own; empty: one loss for
            all. ECAPA-TDNN has its first layer, each block, and the aggregation with all
            behind it as stages (5), ResNet its four.
        batchnorm: which statistics BatchNorm normalises by: ``batch``, or ``running``:
            those of the model in ``train.init``, which then stay as they are, so that a
            batch of one utterance is possible.
        sync_batchnorm: compute BatchNorm statistics over all devices.
        compile: ``torch.compile`` the method.
        threads: CPU threads of the training process, a number or ``auto``: the cores
            that it may use (affinity, the container's quota), shared among the
            processes on this machine.
        trackers: programs that show the run, such as ``[tensorboard, {name: wandb, project:
            mine}]`` (`speechssl list trackers`); ``auto``: the curves in TensorBoard where
            it is installed; ``[]``: none.
    """

    epochs: float | None = None
    steps: int | None = None
    batch_size: int = 64
    gradient_accumulation_steps: int = 1
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    float32_kernel: Literal["auto", "mkl", "onednn"] = "auto"
    log_every: int = 10
    save_every: int = 500
    keep: int = 10
    init: str | None = None
    init_method: str | None = None
    encode: Literal["joint", "per_view"] = "joint"
    local_blocks: tuple[tuple[int, ...], ...] = ()
    batchnorm: Literal["batch", "running"] = "batch"
    sync_batchnorm: bool = True
    compile: bool = False
    threads: Any = "auto"
    trackers: Any = "auto"

    RENAMED: ClassVar[dict[str, str]] = {"accumulate": "gradient_accumulation_steps"}

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise UserError("config: give train.epochs or train.steps, one of them")
        check_above_zero("train.epochs", self.epochs)
        check_above_zero("train.steps", self.steps)
        check_above_zero("train.batch_size", self.batch_size)
        check_above_zero("train.gradient_accumulation_steps", self.gradient_accumulation_steps)
        check_above_zero("train.log_every", self.log_every)
        check_above_zero("train.save_every", self.save_every)
        check_above_zero("train.keep", self.keep)
        _check_threads(self.threads)
        check_trackers(self.trackers)
        if self.local_blocks and self.compile:
            raise UserError(
                "config: train.local_blocks does not go with train.compile; switch one of them off"
            )
        if self.init and self.init_method:
            raise UserError(
                "config: give train.init (the encoder) or train.init_method (everything), one of"
                " them"
            )


def _check_threads(value: Any) -> None:
    """Raise UserError unless ``train.threads`` is ``auto`` or a whole number above 0."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    if value != "auto" and not (is_number and value > 0):
        raise UserError(f"config: train.threads must be auto or a number above 0, not {value!r}")


@dataclass(frozen=True, kw_only=True)
class MonitorSettings:
    """Section ``monitor``: when embeddings are checked for collapse.

    Attributes:
        every: optimiser steps between two checks of the embeddings.
        after: share of the run, 0 to 1, before which no alarm is raised.
        patience: checks in a row that must fail before the alarm is raised.
        stop: whether an alarm ends the run.
    """

    every: int = 50
    after: float = 0.1
    patience: int = 3
    stop: bool = False

    def __post_init__(self) -> None:
        check_above_zero("monitor.every", self.every)
        check_above_zero("monitor.patience", self.patience)
        check_fraction("monitor.after", self.after)


@dataclass(frozen=True, kw_only=True)
class HeldoutSettings:
    """Section ``heldout``: utterances on which the model is measured while it trains.

    Its figures are shown and nothing else: none of them stops a run or chooses a model.

    Attributes:
        data: Kaldi directory of utterances that are not trained on; null: nothing is
            measured.
        trials: list of trials on them, for ``heldout_eer``; null: figures without labels
            alone. Report no result on this list: it was looked at (``about.yaml`` and
            `speechssl report` say so).
        every: optimiser steps between two measurements; besides, before the first step
            and after the last.
        utterances: how many of the directory are drawn, always the same ones; those that
            trials name are embedded as well.
        max_seconds: how much of each utterance is embedded, from its beginning; .inf: all.
    """

    data: str | None = None
    trials: str | None = None
    every: int = 500
    utterances: int = 2000
    max_seconds: float = 10.0

    def __post_init__(self) -> None:
        check_above_zero("heldout.every", self.every)
        check_above_zero("heldout.max_seconds", self.max_seconds)
        if self.utterances < 2:
            raise UserError(f"config: heldout.utterances must be at least 2, not {self.utterances}")
        if self.trials is not None and self.data is None:
            raise UserError(
                "config: heldout.trials needs heldout.data, the Kaldi directory of their utterances"
            )


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """All settings of a run, in the order in which ``config.yaml`` has them.

    Sections that are the settings of a part or of a module are read-only mappings.
    """

    seed: int
    data: DataSettings
    features: Mapping[str, Any]
    augment: Mapping[str, Any]
    specaugment: Mapping[str, Any]
    optimizer: OptimizerSettings
    train: TrainSettings
    monitor: MonitorSettings
    heldout: HeldoutSettings
    encoder: Mapping[str, Any]
    method: Mapping[str, Any]


SECTIONS = tuple(field.name for field in dataclasses.fields(TrainingConfig))
"""Top-level keys of a training configuration."""

_DATACLASSES = {
    "data": DataSettings,
    "optimizer": OptimizerSettings,
    "train": TrainSettings,
    "monitor": MonitorSettings,
    "heldout": HeldoutSettings,
}
_MODULES = {"augment": Augment, "specaugment": SpecAugment}
_PARTS = {"features": "features", "encoder": "encoders", "method": "methods"}


def resolve(path: str, overrides: Sequence[str] = ()) -> TrainingConfig:
    """Read and check a configuration; every default is filled in.

    Args:
        path: YAML file.
        overrides: ``key=value`` pairs on top of it.

    Raises:
        UserError: an unknown section or key, a wrong type, or a contradiction; the
            message has the full path of the setting.
    """
    return complete(config.read(path, overrides))


def complete(written: Mapping[str, Any]) -> TrainingConfig:
    """Check a configuration as it was read from a file, and fill in every default.

    Raises:
        UserError: as ``resolve``.
    """
    for key in written:
        config.known_section(key, SECTIONS)
    seed = written.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise UserError(f"config: seed must be a whole number of at least 0, not {seed!r}")
    sections: dict[str, Any] = {}
    for name, kind in _DATACLASSES.items():
        sections[name] = config.build(kind, _section(written, name), name)
    for name, module in _MODULES.items():
        sections[name] = config.freeze(config.check(module, _section(written, name), name))
    for name, folder in _PARTS.items():
        sections[name] = config.freeze(parts.check(folder, _part(written, name), name))
    return TrainingConfig(seed=seed, **sections)


def _section(written: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a section of what the user wrote, empty if it is missing."""
    section = written.get(name)
    if section is None:
        return {}
    if not isinstance(section, Mapping):
        raise UserError(f"config: section {name} must be a mapping (key: value), not {section!r}")
    return section


def _part(written: Mapping[str, Any], name: str) -> Any:
    """Return a part's section of what the user wrote; a front end without a name is log-mel."""
    if name == "features":
        return with_default_name(written.get(name))
    return _section(written, name)


def run_length(train: TrainSettings, steps_per_epoch: int) -> int:
    """Return the optimiser steps of a run: ``train.steps``, or those of ``train.epochs``."""
    if train.epochs is not None:
        return max(1, round(train.epochs * steps_per_epoch))
    assert train.steps is not None  # TrainSettings has one of the two
    return train.steps


def with_train(settings: TrainingConfig, **changes: Any) -> TrainingConfig:
    """Return the configuration with other values in section ``train``."""
    return dataclasses.replace(settings, train=dataclasses.replace(settings.train, **changes))


def with_precision(settings: TrainingConfig, device: str) -> TrainingConfig:
    """Return the configuration with this machine's precision and kernel in place of ``auto``.

    The configuration that is saved then says how the run was made.
    """
    precision = choose_precision(settings.train.precision, device)
    kernel = choose_kernel(settings.train.float32_kernel)
    return with_train(settings, precision=precision, float32_kernel=kernel)


def with_new_names(written: Mapping[str, Any]) -> dict[str, Any]:
    """Return a saved configuration with the names that settings have today.

    Args:
        written: the content of the ``config.yaml`` of a run.
    """
    sections = dict(written)
    for name, kind in {**_DATACLASSES, **_MODULES}.items():
        if isinstance(sections.get(name), Mapping):  # whatever else it is, `config.check` refuses
            sections[name] = config.with_new_names(kind, sections[name])
    for name, folder in _PARTS.items():
        if name in sections:
            sections[name] = parts.with_new_names(folder, _part(sections, name))
    return sections
