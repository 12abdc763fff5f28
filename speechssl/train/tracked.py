"""What trackers get beside the figures of the log: crops to listen to, and embeddings."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from speechssl.config import read as read_yaml
from speechssl.config import thaw
from speechssl.data.crops import Batch
from speechssl.data.manifest import Utterance
from speechssl.errors import UserError
from speechssl.files import RunFolder
from speechssl.interfaces import TrackedRun
from speechssl.train.run import Run
from speechssl.train.tracking import Named, Tracking

LONGEST_SECONDS = 10.0
"""How much of an utterance is embedded for a tracker."""


@contextlib.contextmanager
def tracked(run: Run, folder: RunFolder, trackers: Named, *, resumed: bool) -> Iterator[Tracking]:
    """Track the training inside the block; trackers are closed however it ends.

    Args:
        run: that is trained.
        folder: of the run, with its ``about.yaml``.
        trackers: built, not yet open.
        resumed: whether the tracked runs of before are continued.
    """
    if not run.world.first:
        trackers = {}
    name = "/".join(Path(folder.path).resolve().parts[-2:])  # `round-1/train`, `runs/method=dino`
    about = read_yaml(folder.about) if trackers else {}
    told = TrackedRun(folder.path, name, thaw(run.config), about, run.step, None)
    tracking = Tracking(trackers, folder, told, resumed=resumed)
    try:
        yield tracking
    finally:
        tracking.close(finished=run.step >= run.steps)


def show_crops(tracking: Tracking, run: Run, batch: Batch) -> None:
    """Give crops of a batch to the trackers, augmented, utterance by utterance."""
    wanted = tracking.sounds
    if not wanted:
        return
    groups = [group.cpu() for group in batch.on(run.world.device, run.views.augment)]
    sounds = []
    names = []
    rate = run.model.sample_rate
    for row, index in enumerate(batch.indices.tolist()):
        for group in groups:
            for number, crops in enumerate(group, 1):
                seconds = crops.shape[-1] / rate
                sounds.append(crops[row].float().numpy())
                names.append(f"{run.utterances[index].id}, {seconds:g} s, crop {number}")
        if len(sounds) >= wanted:
            break
    tracking.add_sounds(run.step, sounds[:wanted], names[:wanted], rate)


def show_embeddings(tracking: Tracking, run: Run) -> None:
    """Give embeddings of training utterances to the trackers, if one wants them after this step."""
    is_last = run.step == run.steps
    wanted = tracking.embeddings(run.step, is_last)
    if not wanted:
        return
    embeddings, names = embed_some(run, wanted)
    if names:
        tracking.add_embeddings(run.step, embeddings, names, last=is_last)


@torch.no_grad()
def embed_some(run: Run, count: int) -> tuple[NDArray[np.float32], list[str]]:
    """Embed utterances spread evenly over the training set, with the encoder that users get.

    A copy of the encoder does it: the one that is trained stays as it is.

    Args:
        run: whose encoder and utterances are taken.
        count: the most that are embedded; those that cannot be read are left out.

    Returns:
        (N, D), and their N ids.
    """
    encoder = copy.deepcopy(run.method.encoder).eval()
    front_end = copy.deepcopy(run.model.front_end).eval()
    rows = np.linspace(0, len(run.utterances) - 1, min(count, len(run.utterances)))
    embeddings = []
    names = []
    for row in rows.astype(int).tolist():
        utterance = run.utterances[row]
        try:
            wave = torch.from_numpy(_beginning(utterance, run.model.sample_rate))
        except UserError:
            continue
        features, _ = front_end(wave[None].to(run.world.device))
        embeddings.append(encoder(features)[0].float().cpu().numpy())
        names.append(utterance.id)
    if not names:
        return np.empty((0, run.model.dim), np.float32), []
    return np.stack(embeddings), names


def _beginning(utterance: Utterance, rate: int) -> NDArray[np.float32]:
    """Read at most ``LONGEST_SECONDS`` of an utterance."""
    return utterance.beginning(LONGEST_SECONDS).read(rate)
