"""Resuming a run: what must not have changed (its settings, its data), and its state."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from speechssl import config, foreign_yaml, parts
from speechssl.data.manifest import Utterance
from speechssl.errors import UserError
from speechssl.files import RunFolder
from speechssl.train.about import class_digests, fingerprint
from speechssl.train.run import Run
from speechssl.train.settings import TrainingConfig, complete, with_new_names, with_train
from speechssl.weights import read_checkpoint


def refuse_another_run(folder: RunFolder) -> None:
    """Raise UserError if a folder holds a run."""
    if folder.last.exists():
        raise UserError(
            f"train: {folder.path} holds a run already; give --resume to continue it, or another"
            " --out"
        )


def same_settings(
    folder: RunFolder, asked: TrainingConfig, *, keep_steps: bool = False
) -> TrainingConfig:
    """Return the settings with which the run in ``folder`` is resumed.

    Args:
        folder: of the run.
        asked: what the user wants now.
        keep_steps: take over the length of the run (its steps were chosen by
            ``minutes``).

    Returns:
        ``asked``, with the run's precision, kernel and ``decoded_gb`` in place of ``auto``.

    Raises:
        UserError: they differ from those that the run was started with.
    """
    before = _settings_before(folder, parts.outside_packages(config.thaw(asked)))
    if keep_steps:
        asked = with_train(asked, steps=before["train"]["steps"], epochs=None)
    if asked.train.precision == "auto":
        asked = with_train(asked, precision=before["train"]["precision"])
    if asked.train.float32_kernel == "auto":
        asked = with_train(asked, float32_kernel=before["train"]["float32_kernel"])
    if asked.data.decoded_gb == "auto":
        kept = dataclasses.replace(asked.data, decoded_gb=before["data"]["decoded_gb"])
        asked = dataclasses.replace(asked, data=kept)
    # Which stores may be read is the user's permission of today, no setting of the run.
    before["data"]["remote"] = config.thaw(asked)["data"]["remote"]
    before["train"]["trackers"] = config.thaw(asked)["train"]["trackers"]  # who looks on, likewise
    for section, now in config.thaw(asked).items():
        _refuse_change(folder, section, before.get(section), now)
    return asked


def _settings_before(folder: RunFolder, allow_code: Collection[str]) -> dict[str, Any]:
    """Return the settings of a run as it saved them, with today's names and defaults.

    A setting that came later has its default: it is what the run was made with.
    """
    saved = foreign_yaml.read(folder.config)
    if isinstance(saved.get("train"), dict):
        saved["train"].pop("trackers", None)  # who looked on; never built from what is saved
    parts.refuse_outside_code(saved, allow_code, folder.config)
    written = with_new_names(saved)
    train = written.get("train")
    if isinstance(train, dict) and train.get("threads") == -1:  # before there was `auto`
        train["threads"] = "auto"
    if isinstance(train, dict):
        train.setdefault("float32_kernel", "mkl")  # before there was a choice
    data = written.get("data")
    if isinstance(data, dict):
        data.setdefault("decoded_gb", 0.0)  # before anything was kept
        if data.get("positives"):  # before groups were masked
            data.setdefault("mask_positives", False)
    before: dict[str, Any] = config.thaw(complete(written))
    return before


def _refuse_change(folder: RunFolder, path: str, before: Any, now: Any) -> None:
    """Raise UserError if a section differs; the message has the first setting that does."""
    if before == now:
        return
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        changed = next(key for key in {**now, **before} if now.get(key) != before.get(key))
        path = f"{path}.{changed}"
        before = before.get(changed)
        now = now.get(changed)
    raise UserError(
        f"train: {path} was {before!r} in {folder.path} and is {now!r} now; resume with the same"
        " configuration or give another --out"
    )


def same_heldout(folder: RunFolder, heldout: Mapping[str, Any] | None) -> None:
    """Raise UserError if the run in ``folder`` was measured on other held-out utterances or trials.

    Args:
        folder: of the run.
        heldout: what would be said of them now (`Heldout.about`); None: there are none.
    """
    before = foreign_yaml.read(folder.about).get("heldout")
    before = before if isinstance(before, dict) else {}
    settings = {"fingerprint": "the utterances of heldout.data", "trials_sha256": "heldout.trials"}
    for key, name in settings.items():
        if before.get(key) != (heldout or {}).get(key):
            raise UserError(
                f"train: {name} are not what they were when the run in {folder.path} was started;"
                " resume with the same ones, or give another --out"
            )


def same_data(folder: RunFolder, settings: TrainingConfig, utterances: Sequence[Utterance]) -> None:
    """Raise UserError if the run in ``folder`` was started with other utterances or classes.

    Args:
        folder: of the run.
        settings: with which it is resumed.
        utterances: what it would be trained on now.
    """
    before = foreign_yaml.read(folder.about).get("data")
    if not isinstance(before, dict):
        raise UserError(f"train: {folder.about} does not say what the run was trained on")
    for key, digest in class_digests(settings.data).items():
        if before.get(key) != digest:
            raise UserError(
                f"train: the file of data.{key} is not what it was when the run in {folder.path}"
                " was started; resume with the same file, or give another --out"
            )
    if before.get("fingerprint") != fingerprint(utterances):
        raise UserError(
            f"train: the run in {folder.path} was started with other data"
            f" ({before.get('utterances')} utterances then, {len(utterances)} now); resume with the"
            " same data or give another --out"
        )


def restore(run: Run, folder: RunFolder) -> None:
    """Continue a run from its last checkpoint.

    Raises:
        UserError: the checkpoint is damaged, or of another run.
    """
    restore_from(run, read_checkpoint(folder.last), folder.last)


def restore_from(run: Run, state: Mapping[str, Any], path: Path) -> None:
    """Continue a run from a state that was read from `path`.

    Raises:
        UserError: it is damaged, or of another run.
    """
    try:
        run.restore(state)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"train: {path} is not the state of this run ({type(error).__name__}: {reason});"
            " start again with another --out"
        ) from error
