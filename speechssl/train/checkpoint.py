"""Run folders: what is written, how it survives a kill, and averages of the last encoders.

A run folder holds ``config.yaml`` (resolved), ``about.yaml`` (version, commit, seed, data),
``log.jsonl``, ``untrained/`` (the model before the first step, the floor of every evaluation),
``last.pt`` (all that resuming needs), ``snapshots/step-*.pt`` (encoders) and, when training is
done, ``model/``. Every file is written under another name and renamed, so a kill never leaves half
of one.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import speechssl
from speechssl import config
from speechssl.data import kaldi
from speechssl.errors import UserError
from speechssl.model import CONFIG, Model, current_settings, load_state

ABOUT, SNAPSHOTS = "about.yaml", "snapshots"
MODEL, UNTRAINED = "model", "untrained"


def describe(
    run: Path,
    settings: Mapping[str, Any],
    utterances: Sequence[Any],
    skipped: Sequence[tuple[str, str]],
) -> None:
    """Write ``config.yaml``, ``about.yaml`` and, if any, ``skipped.tsv`` before the first step."""
    run.mkdir(parents=True, exist_ok=True)
    about = {
        "method": settings["method"]["name"],
        "speechssl": speechssl.__version__,
        "torch": str(torch.__version__),
        "commit": commit(),
        "seed": settings["seed"],
        "labels_used": _labels_used(settings),
        "data": {
            "directories": list(settings["data"]["train"]),
            "utterances": len(utterances),
            "hours": round(sum(u.seconds for u in utterances) / 3600, 4),
            "fingerprint": fingerprint(utterances),
            **_classes(settings),
        },
    }
    for name, value in ((CONFIG, settings), (ABOUT, about)):
        config.write(value, run / f".{name}.tmp")
        os.replace(run / f".{name}.tmp", run / name)
    if skipped:
        (run / "skipped.tsv").write_text("".join(f"{name}\t{why}\n" for name, why in skipped))


def _classes(settings: Mapping[str, Any]) -> dict[str, str]:
    """Digests of the files of pseudo-labels and partners, where there are any."""
    files = {key: settings["data"].get(key) for key in ("pseudo_labels", "positives")}
    return {key: kaldi.digest(file) for key, file in files.items() if file}


def _labels_used(settings: Mapping[str, Any]) -> str:
    """Which labels helped: classes that no clusterer wrote, and those of the model to start
    from.
    """
    data, train = settings["data"], settings["train"]
    files = [file for file in (data.get("pseudo_labels"), data.get("positives")) if file]
    used = [f"classes of unknown origin ({file})" for file in files if not kaldi.are_clusters(file)]
    start = train.get("init") or train.get("init_method")
    if start:
        folders = (Path(start), Path(start) / MODEL)
        written = next(
            (folder / CONFIG for folder in folders[::-1] if (folder / CONFIG).exists()), None
        )
        about = {} if written is None else config.read(written).get("about", {})
        before = about.get("labels_used", "not known")
        used += [] if before == "none" else [f"{before}, in {start}"]
    return "; ".join(used) or "none"


def save_atomically(value: Any, path: Path) -> None:
    """``torch.save`` through a temporary file in the same folder, flushed to disk before the
    rename.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        torch.save(value, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def save_snapshot(run: Path, step: int, encoder: Mapping[str, Tensor], keep: int) -> None:
    """Write the encoder of this step and remove all but the last ``keep``."""
    folder = run / SNAPSHOTS
    folder.mkdir(exist_ok=True)
    save_atomically(dict(encoder), folder / f"step-{step:08d}.pt")
    for old in snapshots(run)[:-keep]:
        old.unlink()


def snapshots(run: Path) -> list[Path]:
    """Encoder snapshots of a run, oldest first."""
    return sorted((run / SNAPSHOTS).glob("step-*.pt"))


def average(
    run: str | Path, last: int = 10, out: str | Path | None = None, until: int | None = None
) -> Path:
    """Average the encoders of the last snapshots into a model folder (default
    ``RUN/model-averageN``).

    With ``until``, of the last ones up to that step: ``last=1, until=500`` is the model after 500
        steps.

    Floating-point entries (BatchNorm statistics too) are averaged in float64, counters taken from
    the newest.

    Raises:
        UserError: the run has no snapshots.
    """
    run = Path(run)
    kept = [
        p for p in snapshots(run) if until is None or int(p.stem.removeprefix("step-")) <= until
    ]
    paths = kept[-last:]
    if last < 1 or not paths:
        upto = "" if until is None else f" up to step {until}"
        raise UserError(
            f"average: no snapshots{upto} in {run / SNAPSHOTS}; give a run folder of 'speechssl"
            " train' (train.save_every and train.keep say which there are)"
        )
    states = [load_state(path) for path in paths]
    mean = {}
    for key, newest in states[-1].items():
        mean[key] = newest
        if newest.is_floating_point():
            mean[key] = (
                torch.stack([state[key].double() for state in states]).mean(0).to(newest.dtype)
            )
    written = config.read(run / CONFIG)
    about = config.read(run / ABOUT) | {"averaged": [path.stem for path in paths]}
    model = Model.from_config(written, about)
    model.encoder.load_state_dict(mean)
    target = Path(out) if out else run / f"{MODEL}-average{len(paths)}"
    model.save(target)
    return target


def commit() -> str | None:
    """The git commit of the code that runs, with ``+`` when it was changed; none outside a
    checkout.
    """
    here = Path(__file__).parent
    try:
        args = {"cwd": here, "capture_output": True, "text": True, "timeout": 5}
        tracked = ["git", "ls-files", "--error-unmatch", Path(__file__).name]
        if subprocess.run(tracked, **args).returncode:  # type: ignore[call-overload]  # a repository that happens to lie around the installed package
            return None
        found = subprocess.run(["git", "rev-parse", "HEAD"], **args)  # type: ignore[call-overload]
        changed = subprocess.run(["git", "status", "--porcelain", "-uno"], **args)  # type: ignore[call-overload]
    except (OSError, subprocess.SubprocessError):
        return None
    return (
        found.stdout.strip() + ("+" if changed.stdout.strip() else "")
        if found.returncode == 0
        else None
    )


def fingerprint(utterances: Sequence[Any]) -> str:
    """A hash of the training set: its ids and durations, not where they lie (16 hexadecimal
    digits).
    """
    digest = hashlib.sha256()
    for utterance in utterances:
        digest.update(f"{utterance.id}\t{utterance.seconds:.3f}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def same_settings(out: Path, settings: Mapping[str, Any], keep_steps: bool) -> Mapping[str, Any]:
    """The settings of the run in ``out``, if they are those asked for.

    Raises:
        UserError: they differ, or there is no run to resume.
    """
    written = current_settings(config.read(out / CONFIG))
    asked = config.thaw(settings)
    if keep_steps:
        asked["train"]["steps"], asked["train"]["epochs"] = written["train"]["steps"], None
    if written["train"].get("threads") == -1:  # as runs before `auto` wrote it
        written["train"]["threads"] = "auto"
    if asked["train"]["precision"] == "auto":
        asked["train"]["precision"] = written["train"]["precision"]
    for section, value in asked.items():
        if value != written.get(section):
            was, wants = written.get(section), value
            if isinstance(value, dict) and isinstance(was, dict):
                key = next(k for k in {**value, **was} if value.get(k) != was.get(k))
                section, was, wants = f"{section}.{key}", was.get(key), value.get(key)
            raise UserError(
                f"train: {section} was {was!r} in {out} and is {wants!r} now; resume with the same"
                " configuration or give another --out"
            )
    return config.freeze(asked)  # type: ignore[no-any-return]


def same_data(out: Path, utterances: Sequence[Any], settings: Mapping[str, Any]) -> None:
    """Raise UserError if the run in ``out`` was begun with other utterances or classes."""
    was = config.read(out / ABOUT)["data"]
    for key, value in _classes(settings).items():
        if was.get(key) != value:
            raise UserError(
                f"train: {settings['data'][key]} is not what it was when {out} was begun; resume"
                f" with the same data.{key}, or give another --out"
            )
    if was["fingerprint"] != fingerprint(utterances):
        raise UserError(
            f"train: {out} was begun with other data ({was['utterances']} utterances then,"
            f" {len(utterances)} now); resume with the same data or give another --out"
        )
