"""C3-DINO: contrastive learning without class collisions, then DINO from there.

Inspired by Zhang and Yu 2022 (two stages: MoCo with multi-stage class-collision
correction, then DINO). Only the abstract was read; the formulas are a reading of it
(methods/README.md 7):

* filter: keys of the queue closer to the query than ``threshold`` (cosine) are taken
  for the same class and leave the denominator;
* re-weighting: w_j proportional to 1 - clip(cos, 0, 1), mean 1 over what is left;
* ProtoNCE: the projections of every utterance are clustered once an epoch, and CE(own
  centroid) at a concentration tau_c = sum |z - c| / (n log(n + alpha)) of each cluster
  is added.

The three begin after ``warmup`` of the first stage, when cosines mean something. At
``switch`` of the run the encoder's moving average becomes DINO's student and teacher,
and DINO runs for the rest, with schedules that start at the switch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from speechssl import parts
from speechssl.clustering.kmeans import spherical_kmeans
from speechssl.errors import UserError
from speechssl.interfaces import Encoder, Method, Output, Progress, Views
from speechssl.methods.dino import Dino
from speechssl.methods.moco import MoCo, moco_loss
from speechssl.nn.host_number import host_number
from speechssl.nn.memory import Memory
from speechssl.nn.precision import in_float32

NO_CLUSTER = -100
"""Assignment of an utterance that was not seen before the last clustering."""


@torch.no_grad()
def collision_weights(query: Tensor, queue: Tensor, threshold: float, reweight: bool) -> Tensor:
    """Return weights (N, K) of the queue's terms, without gradient.

    Args:
        query: (N, P) of unit length.
        queue: (K, P) of unit length.
        threshold: cosine above which a weight is 0.
        reweight: make the others 1 - cosine (clipped to 0..1), scaled to mean 1; else
            they are 1.
    """
    cosines = query @ queue.T
    kept = cosines <= threshold
    if not reweight:
        return kept.to(cosines.dtype)
    weights = (1 - cosines.clamp(0, 1)) * kept
    total = weights.sum(1, keepdim=True)
    return weights * kept.sum(1, keepdim=True) / total.clamp(min=1e-8)


@torch.no_grad()
def concentrations(z: Tensor, centroids: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Return tau_c (K,) of each cluster, scaled to a mean of ``temperature``.

    This is PCL's form with alpha = 10 (Li et al. 2021): the mean distance to the
    centroid over log(n + alpha); clusters of one member, or none, get the largest of the
    others; what is outside the 10th to 90th percentile is moved to it.

    Args:
        z: (N, P) of unit length.
        centroids: (K, P).
        labels: (N,) cluster of each row of ``z``.
        temperature: mean of the result. No cluster gets less than a hundredth of it,
            where the released program divides by 0: members that are all equal.
    """
    distance = (z - centroids[labels]).norm(dim=1)
    sums = distance.new_zeros(len(centroids)).index_add_(0, labels, distance)
    count = torch.bincount(labels, minlength=len(centroids)).to(sums.dtype)
    tau = sums / (count * torch.log(count + 10)).clamp(min=1e-8)
    tau = torch.where(count > 1, tau, 0)
    if not bool(tau.any()):
        return torch.full_like(tau, temperature)
    tau = torch.where(count > 1, tau, tau.max())
    tau = tau.clamp(tau.quantile(0.1), tau.quantile(0.9))
    return (tau / tau.mean() * temperature).clamp(min=temperature / 100)


class FilteredMoCo(MoCo):
    """The first stage: MoCo with the three corrections, which are off until ``corrected`` is set.

    Args:
        encoder: the encoder to train.
        threshold, reweight: see ``collision_weights``.
        prototypes: clusters of ProtoNCE.
        settings: those of ``MoCo``.
    """

    centroids: Tensor
    """(C, P) of unit length."""

    tau: Tensor
    """(C,) temperature of each cluster."""

    assigned: Tensor
    """(N,) cluster of each utterance, or ``NO_CLUSTER``."""

    clustered: Tensor
    """Step of the last clustering, -1 before the first."""

    def __init__(
        self, encoder: Encoder, threshold: float, reweight: bool, prototypes: int, **settings: Any
    ) -> None:
        super().__init__(encoder, **settings)
        self.threshold = threshold
        self.reweight = reweight
        self.corrected = False
        self.register_buffer("centroids", torch.zeros(prototypes, self.queue.shape[1]))
        self.register_buffer("tau", torch.full((prototypes,), self.temperature))
        self.register_buffer("clustered", torch.full((), -1, dtype=torch.int64))

    def prepare(self, utterances: int, labels: Tensor | None = None) -> None:
        """Make the memory of ``utterances`` projections and their assignments."""
        self.memory = Memory(1, utterances, self.queue.shape[1])
        self.register_buffer("assigned", torch.full((utterances,), NO_CLUSTER))

    def contrast(
        self, query: Tensor, key: Tensor, queue: Tensor, kept: Tensor | None = None
    ) -> Tensor:
        """Return MoCo's loss, with the corrections once they are on."""
        if not self.corrected:
            return super().contrast(query, key, queue, kept)
        weights = collision_weights(query, queue, self.threshold, self.reweight)
        if kept is not None:
            weights = weights * kept
        return moco_loss(query, key, queue, self.temperature, weights)

    def cluster(self, step: int, steps_per_epoch: int) -> None:
        """Cluster the memory once an epoch; all processes find the same, the step is the seed."""
        last = int(self.clustered)
        if last >= 0 and step - last < steps_per_epoch:
            return
        seen = torch.nonzero(self.memory.seen).flatten()
        if len(seen) < len(self.centroids):
            return
        x = self.memory.values[0, seen]
        generator = torch.Generator().manual_seed(step)
        centroids, labels, _ = spherical_kmeans(x, len(self.centroids), 10, generator)
        self.centroids.copy_(centroids)
        self.tau.copy_(concentrations(x, centroids, labels, self.temperature))
        self.assigned[seen] = labels
        self.clustered.fill_(step)

    def proto_nce(self, z: Tensor, ids: Tensor) -> Tensor:
        """Return the cross-entropy of z (V, B, P) with the own centroid.

        It is the mean over the utterances ``ids`` (B,) that have one; 0 where none has.
        """
        labels = self.assigned[ids].expand(len(z), -1).flatten()
        logits = F.normalize(z, dim=-1).flatten(0, 1) @ self.centroids.T / self.tau
        total = F.cross_entropy(logits, labels, ignore_index=NO_CLUSTER, reduction="sum")
        known = (labels >= 0).sum()
        return total / known.clamp(min=1)


class C3Dino(Method):
    """Both stages around one encoder.

    Args:
        encoder: the student's, in both stages.
        switch: share of the run after which DINO takes over.
        warmup: share of the first stage without corrections.
        threshold: cosine of a query and a key of the queue above which they are taken for
            the same class, and the key leaves the denominator.
        reweight: weigh the keys that are left by 1 - cosine, scaled to mean 1.
        prototypes: clusters of ProtoNCE, 0 = none; DINO has its own in ``dino``.
        proto_weight: factor of ProtoNCE in the loss.
        hidden, projection: sizes of the layers of the first stage's projector (MoCo).
        queue_size: keys that MoCo remembers.
        temperature: tau of MoCo, which divides cosines.
        teacher_momentum: momentum of MoCo's moving average.
        dino: settings of the second stage.
    """

    RENAMED: ClassVar[dict[str, str]] = {"queue": "queue_size"}

    switched: Tensor
    """Step at which the second stage began, -1 before it."""

    def __init__(
        self,
        encoder: Encoder,
        *,
        switch: float = 0.5,
        warmup: float = 0.2,
        threshold: float = 0.7,
        reweight: bool = True,
        prototypes: int = 128,
        proto_weight: float = 0.25,
        hidden: int = 512,
        projection: int = 128,
        queue_size: int = 1024,
        temperature: float = 0.1,
        teacher_momentum: float = 0.99,
        dino: dict[str, Any] = {"prototypes": 1024, "hidden": 512, "batchnorm": True},  # noqa: B006
    ) -> None:
        super().__init__()
        self.moco = FilteredMoCo(
            encoder,
            threshold,
            reweight,
            prototypes,
            hidden=hidden,
            projection=projection,
            queue_size=queue_size,
            temperature=temperature,
            teacher_momentum=teacher_momentum,
        )
        self.dino: Dino = parts.build("methods", {"name": "dino", **dino}, encoder)
        self.teacher_prototypes = self.dino.teacher_prototypes
        self.highest_teacher_temperature = self.dino.highest_teacher_temperature
        self.switch = switch
        self.warmup = warmup
        self.proto_weight = proto_weight if prototypes else 0.0
        self.register_buffer("switched", torch.full((), -1, dtype=torch.int64))

    def prepare(self, utterances: int, labels: Tensor | None = None) -> None:
        """Make the first stage's memory."""
        self.moco.prepare(utterances, labels)

    @property
    def in_second_stage(self) -> bool:
        """Whether DINO has taken over."""
        return host_number(self.switched) >= 0

    @property
    def encoder(self) -> Encoder:
        """The teacher's encoder of the current stage."""
        return self.dino.encoder if self.in_second_stage else self.moco.encoder

    def networks(self) -> dict[str, Encoder]:
        """Return the student, which both stages share, and the current stage's teacher.

        In the second stage the teacher that the first one ended with is there as
        ``moco.teacher``.
        """
        networks = {"student": self.moco.net.encoder, "teacher": self.encoder}
        if self.in_second_stage:
            networks["moco.teacher"] = self.moco.encoder
        return networks

    def forward(self, views: Sequence[Views], progress: Progress) -> Output:
        """Return the loss of the current stage.

        The other stage's own parameters get a gradient of zero, because distributed
        training wants one for every parameter.
        """
        if not self.in_second_stage and progress.fraction >= self.switch:
            self._switch(progress.step)
        output: Output
        if self.in_second_stage:
            output = self.dino(views, self.dino_progress(progress))
            idle = self.moco.net.projector
        else:
            output = self._contrastive(views, progress)
            idle = self.dino.student.head
        zero = output.loss.new_zeros(())
        for parameter in idle.parameters():
            if parameter.requires_grad:
                zero = zero + parameter.sum()
        return output._replace(loss=output.loss + 0.0 * zero)

    def _contrastive(self, views: Sequence[Views], progress: Progress) -> Output:
        """Return the loss of the first stage: MoCo's and ProtoNCE."""
        self.moco.corrected = progress.fraction >= self.warmup * self.switch
        output: Output = self.moco(views, progress)
        if not self.proto_weight or not self.training:
            return output
        ids = views[0].ids
        if ids is None:
            raise UserError("method c3_dino: ProtoNCE needs the utterances' ids; give Views ids")
        z = output.projections
        with in_float32(z):
            if self.moco.corrected:
                self.moco.cluster(progress.step, progress.steps_per_epoch)
            proto_nce = self.moco.proto_nce(z, ids)
            self.moco.memory.update(ids, z[:1])
        scalars = {"moco": output.loss.detach(), "proto_nce": proto_nce.detach()}
        loss = output.loss + self.proto_weight * proto_nce
        return output._replace(loss=loss, scalars=scalars)

    @torch.no_grad()
    def _switch(self, step: int) -> None:
        """Start DINO's student and teacher from the moving average, in place."""
        average = self.moco.teacher.encoder.state_dict()
        self.dino.student.encoder.load_state_dict(average)
        self.dino.teacher.encoder.load_state_dict(average)
        self.dino.teacher.head.load_state_dict(self.dino.student.head.state_dict())
        self.switched.fill_(step)

    def dino_progress(self, progress: Progress) -> Progress:
        """Return where the second stage stands, which began at the switch."""
        begun = host_number(self.switched)
        return progress._replace(step=progress.step - begun, steps=max(1, progress.steps - begun))

    def after_backward(self, progress: Progress) -> None:
        """Call DINO's hook in the second stage."""
        if self.in_second_stage:
            self.dino.after_backward(self.dino_progress(progress))

    def after_step(self, progress: Progress) -> None:
        """Move the teacher of the current stage."""
        if self.in_second_stage:
            self.dino.after_step(self.dino_progress(progress))
        else:
            self.moco.after_step(progress)


PART = C3Dino
