"""Every section of a training configuration, checked as one and then frozen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from speechssl import config, parts
from speechssl.augment.augment import Augment, SpecAugment
from speechssl.compat import choose_precision
from speechssl.errors import UserError
from speechssl.features import with_default_name
from speechssl.train.optimizers import OptimizerSettings


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Section ``data``.

    Attributes:
        train: Kaldi directories; only their audio is used, no label file is opened.
        crops: the crop plan, a list of ``{count, seconds, augment, to}``.
        overlap: probability of drawing the long crops as the extremes of five offsets (methods/README.md
            1.3).
        disjoint: teacher's and student's crops from parts of the utterance that do not overlap.
        weight_by_duration: visit utterances in proportion to their length, in place of once an
            epoch.
        shards_at_once: with shards (`speechssl shard`), how many of them are mixed at a time, so
            that a disk that turns or a remote store is read a few files after the other; null: all
            of them.
        positives: file of `utterance cluster` lines (pseudo-labels of an earlier model, from
            `speechssl cluster`): with ``positives_prob`` a teacher's crop comes from another
            recording of the cluster.
        pseudo_labels: file of the same kind, the classes that ``method=aam_softmax`` learns;
            utterances that it does not name are left out.
        min_seconds: shorter utterances are left out (and counted).
        workers: loader processes, -1: chosen from the cores.
        timeout: seconds after which a stuck loader is an error.
    """

    train: list[str]
    crops: list[dict[str, Any]]
    overlap: float = 0.0
    disjoint: bool = False
    weight_by_duration: bool = False
    shards_at_once: int | None = None
    positives: str | None = None
    positives_prob: float = 0.5
    pseudo_labels: str | None = None
    min_seconds: float = 0.5
    workers: int = -1
    timeout: float = 300.0


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Section ``train``.

    Attributes:
        epochs, steps: length of the run, one of them.
        batch_size: utterances of one device in one forward pass.
        accumulate: forward passes of one optimiser step.
        precision: of the encoder's products, ``auto``: bfloat16 where the hardware has
            instructions for it, else float32. Losses and statistics stay in float32.
        log_every, save_every: optimiser steps; a save keeps the state to resume from and one
            snapshot of the encoder, of which the last ``keep`` stay.
        init: model or run folder whose encoder training starts from.
        init_method: run folder whose whole method (encoder, heads, classes) training starts from,
            with a new optimiser and schedule, as large-margin fine-tuning does.
        sync_batchnorm: BatchNorm statistics over all devices.
        compile: ``torch.compile`` the encoder.
        threads: CPU threads of the training process, a number or ``auto``: the cores that it may
            use (affinity, the container's quota), shared among the processes on this machine.
    """

    epochs: float | None = None
    steps: int | None = None
    batch_size: int = 64
    accumulate: int = 1
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    log_every: int = 10
    save_every: int = 500
    keep: int = 10
    init: str | None = None
    init_method: str | None = None
    sync_batchnorm: bool = True
    compile: bool = False
    threads: Any = "auto"


@dataclass(frozen=True, kw_only=True)
class MonitorSettings:
    """Section ``monitor``: a check every so many steps; ``stop`` ends a run that has collapsed.

    ``after`` is the share of the run before which nothing is judged, ``patience`` the number of
    checks in a row that must fail.
    """

    every: int = 50
    after: float = 0.1
    patience: int = 3
    stop: bool = False


_PLAIN = {
    "data": DataSettings,
    "augment": Augment,
    "specaugment": SpecAugment,
    "optimizer": OptimizerSettings,
    "train": TrainSettings,
    "monitor": MonitorSettings,
}
_PARTS = {"encoder": "encoders", "method": "methods"}
_ABOVE_ZERO = {
    "train": ("epochs", "steps", "batch_size", "accumulate", "log_every", "save_every", "keep"),
    "monitor": ("every", "patience"),
    "optimizer": ("lr", "lr_batch", "clip"),
}
SECTIONS = ("seed", "features", *_PLAIN, *_PARTS)


def resolve(path: str, overrides: Sequence[str] = ()) -> Mapping[str, Any]:
    """The complete configuration of a run, every default filled in, read-only.

    Raises:
        UserError: an unknown section or key, a wrong type, or a contradiction, with its full path.
    """
    written = config.read(path, overrides)
    for key in written:
        config.known_section(key, SECTIONS)
    seed = written.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise UserError(f"config: seed must be a whole number of at least 0, not {seed!r}")
    out: dict[str, Any] = {"seed": seed}
    for name, part in _PLAIN.items():
        out[name] = config.check(part, _mapping(written, name), name)
    features = with_default_name(written.get("features"))
    out["features"] = parts.check("features", features, "features")
    for name, package in _PARTS.items():
        out[name] = parts.check(package, _mapping(written, name), name)
    _sensible(out)
    return config.freeze(out)  # type: ignore[no-any-return]


def with_precision(settings: Mapping[str, Any], device: str) -> Mapping[str, Any]:
    """Put the device's precision in the place of ``auto``; the settings of a run say what ran."""
    changed = config.thaw(settings)
    changed["train"]["precision"] = choose_precision(changed["train"]["precision"], device)
    return config.freeze(changed)  # type: ignore[no-any-return]


def _mapping(written: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = written.get(name, {})
    if section is None:
        return {}
    if not isinstance(section, dict | MappingProxyType):
        raise UserError(f"config: section {name} must be a mapping (key: value), not {section!r}")
    return section


def _sensible(settings: Mapping[str, Any]) -> None:
    train = settings["train"]
    if (train["epochs"] is None) == (train["steps"] is None):
        raise UserError("config: give train.epochs or train.steps, one of them")
    for section, keys in _ABOVE_ZERO.items():
        for key in keys:
            value = settings[section][key]
            if value is not None and not value > 0:
                raise UserError(f"config: {section}.{key} must be above 0, not {value}")
    for section, key in (("optimizer", "warmup"), ("monitor", "after")):
        if not 0 <= settings[section][key] <= 1:
            raise UserError(
                f"config: {section}.{key} is a share, 0 to 1, not {settings[section][key]}"
            )
    _check_threads(train["threads"])
    if train["init"] and train["init_method"]:
        raise UserError(
            "config: give train.init (the encoder) or train.init_method (everything), one of them"
        )
    if not settings["data"]["train"]:
        raise UserError("config: data.train is empty; name at least one Kaldi directory")


def _check_threads(value: Any) -> None:
    """Accept ``auto`` or a number above 0."""
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return
    raise UserError(f"config: train.threads must be auto or a number above 0, not {value!r}")
