"""What a run folder says of a run: its settings, code, data and labels (``about.yaml``)."""

from __future__ import annotations

import hashlib
import subprocess
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import speechssl
from speechssl import foreign_yaml
from speechssl.config import write
from speechssl.data import kaldi
from speechssl.data.manifest import Utterance
from speechssl.errors import UserError
from speechssl.files import RunFolder, atomic_write, model_folder, write_skipped
from speechssl.train.settings import DataSettings, TrainingConfig


def describe(
    folder: RunFolder,
    config: TrainingConfig,
    utterances: Sequence[Utterance],
    skipped: Sequence[tuple[str, str]],
    heldout: Mapping[str, Any] | None = None,
) -> None:
    """Write ``config.yaml``, ``about.yaml`` and, if any, ``skipped.tsv`` before the first step.

    Args:
        folder: of the run; it is made.
        config: of the run.
        utterances: what it is trained on.
        skipped: (id, reason) of the utterances that are left out.
        heldout: what is said of the held-out utterances (`Heldout.about`).
    """
    folder.path.mkdir(parents=True, exist_ok=True)
    labels = labels_used(config)
    if "speaker labels" in labels:
        warnings.warn(f"train: {labels}; about.yaml says so", stacklevel=2)
    if config.data.positives and config.data.positives_kind == "session":
        _warn_of_shared_sessions(config.data.positives, config.data.train)
    about: dict[str, Any] = {
        "method": config.method["name"],
        "speechssl": speechssl.__version__,
        "torch": str(torch.__version__),
        "commit": commit(),
        "seed": config.seed,
        "labels_used": labels,
        "data": {
            "directories": list(config.data.train),
            "utterances": len(utterances),
            "hours": round(sum(u.seconds for u in utterances) / 3600, 4),
            "fingerprint": fingerprint(utterances),
            **class_digests(config.data),
        },
    }
    if config.data.positives:
        about["data"]["positives_kind"] = config.data.positives_kind
    if heldout:
        about["heldout"] = dict(heldout)
    looked_at = lists_looked_at(config, heldout or {})
    if looked_at:
        about["trials_looked_at"] = looked_at
    with atomic_write(folder.config) as temporary:
        write(config, temporary)
    with atomic_write(folder.about) as temporary:
        write(about, temporary)
    if skipped:
        write_skipped(folder.skipped, skipped)


def class_digests(data: DataSettings) -> dict[str, str]:
    """Return the digests of the files of pseudo-labels and positives that are set."""
    digests = {}
    if data.pseudo_labels:
        digests["pseudo_labels"] = kaldi.digest(data.pseudo_labels)
    if data.positives:
        digests["positives"] = kaldi.digest(data.positives)
    return digests


def labels_used(config: TrainingConfig) -> str:
    """List every labelled source behind a run, or return "none".

    These are sessions, class files that no clusterer wrote, and what the initial model
    was trained with.
    """
    data = config.data
    used = []
    if data.pseudo_labels:
        used.append(origin_of_groups(data.pseudo_labels, "cluster", data.train))
    if data.positives:
        used.append(origin_of_groups(data.positives, data.positives_kind, data.train))
    used = [origin for origin in used if origin]
    start = config.train.init or config.train.init_method
    if start:
        before = labels_used_by(start)
        if before != "none":
            used.append(f"{before}, in {start}")
    return "; ".join(used) or "none"


def lists_looked_at(config: TrainingConfig, heldout: Mapping[str, Any]) -> list[str]:
    """Return the digests (`Trials.sha256`) of the lists that were looked at while training.

    They are that of ``heldout.trials``, and those of the model that the run starts from.

    Args:
        config: of the run.
        heldout: what is said of the held-out utterances.
    """
    lists: list[str] = []
    start = config.train.init or config.train.init_method
    if start:
        before = _about_model(start).get("trials_looked_at")
        if isinstance(before, list):
            lists = [one for one in before if isinstance(one, str) and len(one) == 64]
    own = heldout.get("trials_sha256")
    if own and own not in lists:
        lists.append(own)
    return lists


def origin_of_groups(file: str, kind: str, directories: Sequence[str]) -> str:
    """Return what the groups of a file are, "" for what a clusterer found.

    Whatever the user calls them, groups that are the speakers of the training data are
    called speaker labels.

    Args:
        file: lines `utterance group`.
        kind: what the user calls them: ``cluster`` or ``session``.
        directories: of the training data; only here is their utt2spk opened.
    """
    if kaldi.are_clusters(file):
        return ""
    if _are_speakers(kaldi.read_mapping(file), directories):
        return f"speaker labels ({file}: its groups are those of utt2spk)"
    if kind == "session":
        return f"sessions ({file})"
    return f"classes of unknown origin ({file})"


def _are_speakers(group_of: Mapping[str, str], directories: Sequence[str]) -> bool:
    """True if two utterances have one group just where they have one speaker."""
    pairs, compared = _groups_and_speakers(group_of, directories)
    groups = {group for group, _ in pairs}
    speakers = {speaker for _, speaker in pairs}
    return len(groups) == len(speakers) == len(pairs) < compared


def _warn_of_shared_sessions(file: str, directories: Sequence[str]) -> None:
    """Warn if sessions hold several speakers: the positives of one would be another's voice.

    Args:
        file: lines `utterance session`.
        directories: of the training data, whose utt2spk is opened for this warning only.
    """
    pairs, _ = _groups_and_speakers(kaldi.read_mapping(file), directories)
    speakers_of = Counter(session for session, _ in pairs)
    shared = sum(count > 1 for count in speakers_of.values())
    if shared:
        warnings.warn(
            f"data.positives: {shared} of {len(speakers_of)} sessions of {file} hold several speakers"
            " by utt2spk; a positive may be another voice: split them, for instance into one session"
            " for each side of a call",
            stacklevel=3,
        )


def _groups_and_speakers(
    group_of: Mapping[str, str], directories: Sequence[str]
) -> tuple[set[tuple[str, str]], int]:
    """Return which groups and speakers meet, and how many utterances have both.

    Args:
        group_of: the group of each utterance.
        directories: of the training data; those without utt2spk are passed over.
    """
    pairs: set[tuple[str, str]] = set()
    compared = 0
    for directory in directories:
        try:
            speaker_of = kaldi.read_mapping(Path(directory) / "utt2spk")
        except UserError:
            continue
        common = [name for name in speaker_of if name in group_of]
        compared += len(common)
        pairs.update((group_of[name], speaker_of[name]) for name in common)
    return pairs, compared


def labels_used_by(folder: str) -> str:
    """Return what the model in a model or run folder says of its labels, or "not known"."""
    return str(_about_model(folder).get("labels_used", "not known"))


def _about_model(folder: str) -> dict[str, Any]:
    """Return what the model in a model or run folder says of itself; nothing where there is none."""
    written = model_folder(folder).config
    if not written.exists():
        return {}
    about = foreign_yaml.read(written).get("about")
    return about if isinstance(about, dict) else {}


def commit() -> str | None:
    """Return the git commit of the code that runs, with ``+`` if files were changed since.

    None outside a checkout.
    """
    # An installed package may lie inside some other repository, which does not track this file.
    if _git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    head = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain", "-uno")
    if head is None or changed is None:
        return None
    return f"{head}+" if changed else head


def _git(*arguments: str) -> str | None:
    """Return what a git command prints, run in this folder; None if it fails."""
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=5,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def fingerprint(utterances: Sequence[Utterance]) -> str:
    """Return a hash (16 hexadecimal digits) of the training set: ids, durations and channels, not paths."""
    digest = hashlib.sha256()
    for utterance in utterances:
        line = f"{utterance.id}\t{utterance.seconds:.3f}"
        if utterance.channel is not None:
            line += f"\t{utterance.channel}"
        digest.update(f"{line}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]
