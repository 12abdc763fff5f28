"""From a batch of crops to the views that a method is given."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from speechssl.augment.augment import Augment
from speechssl.augment.specaugment import SpecAugment
from speechssl.data.crops import Batch, CropSpec
from speechssl.distributed import World
from speechssl.interfaces import FrontEnd, Views


class ViewMaker:
    """Turns a batch of crops into views: augmentation, features and SpecAugment, on the device.

    Args:
        plan: the crop plan.
        augment: what the batch leaves to the device.
        front_end: waveforms to features, on the device.
        specaugment: masks of features; groups of the plan with ``augment: none`` get
            none.
        seed: of the run.
        world: this process among the others.
        per_view: whether the encoder is to see one view at a time.
        groups: (N,) int64, the group of each utterance of the training set (`Views.groups`);
            None: they have none.
    """

    def __init__(
        self,
        plan: Sequence[CropSpec],
        augment: Augment,
        front_end: FrontEnd,
        specaugment: SpecAugment,
        seed: int,
        world: World,
        *,
        per_view: bool = False,
        groups: Tensor | None = None,
    ) -> None:
        self.plan = plan
        self.augment = augment
        self.front_end = front_end
        self.specaugment = specaugment
        self.seed = seed
        self.world = world
        self.per_view = per_view
        self.groups = groups

    @torch.no_grad()
    def __call__(self, batch: Batch, index: int) -> list[Views]:
        """Return one ``Views`` for each group of the plan.

        Args:
            batch: of this process.
            index: number of the batch in the run; SpecAugment's masks are a function of
                it.
        """
        ids = batch.indices.to(self.world.device)
        group_of_row = None
        if self.groups is not None:
            group_of_row = self.groups[batch.indices].to(self.world.device)
        views = []
        groups = batch.on(self.world.device, self.augment)
        for number, (waves, spec) in enumerate(zip(groups, self.plan, strict=True)):
            crops, utterances = waves.shape[:2]
            features, _ = self.front_end(waves.flatten(0, 1))
            if spec.augment != "none":
                generator = self._generator(features.device, index, number)
                rows, total = self._rows_of_all(crops, utterances)
                features = self.specaugment(features, generator, rows, total)
            features = features.view(crops, utterances, *features.shape[1:])
            views.append(Views(features, spec.to, ids, group_of_row, self.per_view))
        return views

    def _generator(self, device: torch.device, index: int, group: int) -> torch.Generator:
        """Return the random numbers of one group of one batch, the same on every process."""
        sequence = np.random.SeedSequence([self.seed, index, group])
        seed = int(sequence.generate_state(1)[0])
        return torch.Generator(device).manual_seed(seed)

    def _rows_of_all(self, crops: int, utterances: int) -> tuple[Tensor, int]:
        """Return which rows of the joined batch this process holds, and how many there are.

        All processes' crops are numbered crop by crop, each over the utterances of all
        processes: the masks are then those of a single process with the joined batch.
        """
        joined = utterances * self.world.size
        own = self.world.rank * utterances + torch.arange(utterances)
        rows = torch.arange(crops)[:, None] * joined + own
        return rows.flatten(), crops * joined
