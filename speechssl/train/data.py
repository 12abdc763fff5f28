"""What a run is trained on: utterances, pseudo-labels, and batches of crops."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from speechssl.audio.remotes import Remotes
from speechssl.augment.augment import Augment
from speechssl.data.crops import CropSpec
from speechssl.data.dataset import CropBatches
from speechssl.data.decoded import memory_to_spare
from speechssl.data.kaldi import read_mapping
from speechssl.data.manifest import Utterance, read_manifest
from speechssl.data.order import DataOrder
from speechssl.data.positives import Positives
from speechssl.data.sequential import Reading
from speechssl.distributed import World, from_first_here
from speechssl.errors import UserError
from speechssl.train.settings import DataSettings, TrainingConfig, run_length


def read_utterances(data: DataSettings) -> tuple[list[Utterance], list[tuple[str, str]]]:
    """Read the utterances of all ``data.train`` directories; no label file is opened.

    Returns:
        The utterances to train on (`source` is the number of their directory), and (id,
        reason) of those that are left out: unusable, shorter than ``data.min_seconds``,
        or, with ``data.pseudo_labels``, without a pseudo-label.

    Raises:
        UserError: no utterance is left, or two that have classes share an id.
    """
    clusters: Mapping[str, str] | None = None
    if data.pseudo_labels is not None:
        clusters = read_mapping(data.pseudo_labels)
    utterances: list[Utterance] = []
    skipped: list[tuple[str, str]] = []
    remotes = Remotes(data.remote)
    for number, directory in enumerate(data.train):
        manifest = read_manifest(directory, labels=(), on_bad="skip", remotes=remotes)
        skipped += manifest.skipped
        for utterance in manifest.utterances:
            reason = _reason_to_skip(utterance, data.min_seconds, clusters)
            if reason:
                skipped.append((utterance.id, reason))
            else:
                utterances.append(dataclasses.replace(utterance, source=number))
    if data.pseudo_labels or data.positives:
        refuse_shared_ids(utterances)
    if clusters is not None and not utterances:
        raise UserError(
            f"data.pseudo_labels: {data.pseudo_labels} has none of the {len(skipped)} utterances;"
            " give the file that was made from these data"
        )
    if not utterances:
        directories = ", ".join(data.train)
        raise UserError(
            f"data.train: no usable utterance in {directories} ({len(skipped)} left out); check the"
            " list"
        )
    return utterances, skipped


def _reason_to_skip(
    utterance: Utterance, min_seconds: float, clusters: Mapping[str, str] | None
) -> str:
    """Return why an utterance is left out, or "" if it is used."""
    if utterance.seconds < min_seconds:
        return f"{utterance.seconds:.2f} s, shorter than data.min_seconds={min_seconds}"
    if clusters is not None and utterance.id not in clusters:
        return "no pseudo-label"
    return ""


def refuse_shared_ids(
    utterances: Sequence[Utterance], setting: str = "data.train", looked_up: str = "classes"
) -> None:
    """Raise UserError if two utterances have the same id, by which something is looked up.

    Args:
        utterances: of all directories.
        setting: that the message begins with.
        looked_up: what an id stands for.
    """
    seen: set[str] = set()
    for utterance in utterances:
        if utterance.id in seen:
            raise UserError(
                f"{setting}: two directories have an utterance {utterance.id!r}, and {looked_up} are"
                " looked up by id; prepare one of them in another folder"
            )
        seen.add(utterance.id)


def read_pseudo_labels(data: DataSettings, utterances: Sequence[Utterance]) -> Tensor | None:
    """Return the classes (N,) int64 of the utterances, or None without ``data.pseudo_labels``.

    Classes are numbered from 0 in the order of their names.
    """
    if data.pseudo_labels is None:
        return None
    clusters = read_mapping(data.pseudo_labels)
    names = [clusters[utterance.id] for utterance in utterances]
    _, classes = np.unique(names, return_inverse=True)
    return torch.from_numpy(classes.astype(np.int64))


def read_positives(data: DataSettings, utterances: Sequence[Utterance]) -> Positives | None:
    """Return the source of partners from the same group, or None without ``data.positives``."""
    if data.positives is None:
        return None
    return Positives(data.positives, utterances, data.positives_prob)


def groups_to_mask(data: DataSettings, positives: Positives | None) -> Tensor | None:
    """Return the groups (N,) int64 whose utterances are no negatives of each other.

    None without ``data.positives``, or with ``data.mask_positives=false``.
    """
    if positives is None or not data.mask_positives:
        return None
    return torch.from_numpy(positives.group)


def sequential_reading(data: DataSettings) -> Reading | None:
    """Return how shards are read in sequence, or None with ``data.reading=random``."""
    if data.reading == "random":
        return None
    return Reading(data.shuffle_buffer, data.cache, data.cache_gb)


def crop_batches(
    config: TrainingConfig,
    utterances: Sequence[Utterance],
    plan: Sequence[CropSpec],
    augment: Augment,
    sample_rate: int,
    world: World,
    *,
    passes: int,
) -> CropBatches:
    """Return the batches of crops that this process trains on.

    Args:
        config: of the run.
        utterances: what to train on.
        plan: the crop plan.
        augment: applied by the loader's workers on a CPU, and on the device otherwise.
        sample_rate: of the crops, Hz.
        world: this process among the others.
        passes: batches of the whole run.
    """
    return CropBatches(
        utterances,
        plan,
        rate=sample_rate,
        batch_size=config.train.batch_size,
        seed=config.seed,
        rank=world.rank,
        world=world.size,
        far_apart_prob=config.data.far_apart_prob,
        disjoint=config.data.disjoint,
        weight_by_duration=config.data.weight_by_duration,
        replacement=config.data.replacement,
        source_shares=config.data.source_shares,
        source_temperature=config.data.source_temperature,
        shards_at_once=config.data.shards_at_once,
        positives=read_positives(config.data, utterances),
        order=DataOrder(config.data.order, passes, config.data.single_pass_share),
        sequential=sequential_reading(config.data),
        requests=config.data.requests,
        decoded_bytes=_decoded_bytes(config.data),
        augment=augment,
        augment_here=world.device.type == "cpu",
    )


def with_decoded_gb(
    config: TrainingConfig, utterances: int, world: World, *, timed: bool = False
) -> TrainingConfig:
    """Return the configuration with a number in place of ``data.decoded_gb=auto``.

    The configuration that is saved then says it, and a resumed run decodes as the run did.

    Args:
        config: of the run.
        utterances: of the training set.
        world: this process among the others.
        timed: the length of the run is still to be chosen by ``minutes``; else nothing is
            kept where the run comes to most utterances once only.
    """
    if config.data.decoded_gb != "auto":
        return config
    train = config.train
    batch = train.batch_size * world.size * train.gradient_accumulation_steps
    steps = run_length(train, max(1, utterances // batch))
    gigabytes = 0.0
    if config.data.reading == "random" and (timed or steps * batch >= 2 * utterances):
        # All processes of a machine share the file, so they have to know one number.
        gigabytes = from_first_here(lambda: round(memory_to_spare() / 1e9, 3))
    return dataclasses.replace(config, data=dataclasses.replace(config.data, decoded_gb=gigabytes))


def _decoded_bytes(data: DataSettings) -> int:
    """Return the bytes that this machine may keep decoded utterances in."""
    if data.decoded_gb == "auto":
        return 0
    return int(data.decoded_gb * 1e9)
