"""C3-DINO: contrastive learning without class collisions, then DINO from there.

Inspired by Zhang and Yu 2022 (two stages: MoCo with multi-stage class-collision correction, then
DINO), of which the abstract was read; the formulas are an implementable reading of ours (methods/README.md
7):

* filter: keys of the queue closer to the query than ``threshold`` (cosine) are taken for the same class and
  leave the denominator;
* re-weighting: w_j proportional to 1 - clip(cos, 0, 1), mean 1 over what is left;
* ProtoNCE: the keys' network's projections of every utterance are clustered from time to time, and
  CE(own centroid) at a concentration tau_c = sum |z - c| / (n log(n + alpha)) of each cluster is
  added.

The three begin after ``warmup`` of the first stage, when cosines mean something. At ``switch`` of
the run the encoder's moving average becomes DINO's student and teacher, and DINO runs the rest on a
schedule of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechssl import parts
from speechssl.clustering.kmeans import spherical_kmeans
from speechssl.interfaces import Method, Output, Progress, Views
from speechssl.methods.dino import Dino
from speechssl.methods.moco import MoCo, moco_loss
from speechssl.nn.memory import Memory
from speechssl.nn.views import in_float32


@torch.no_grad()
def collision_weights(query: Tensor, queue: Tensor, threshold: float, reweight: bool) -> Tensor:
    """Weights (N, K) of the queue's terms for unit queries (N, P) and keys (K, P); no gradient.

    0 where the cosine is above ``threshold``; else 1, or with ``reweight`` 1 - cosine (clipped to
    0..1) scaled to mean 1 over the terms that are left.
    """
    cosines = query @ queue.T
    kept = cosines <= threshold
    weights = (1 - cosines.clamp(0, 1)) * kept if reweight else kept.to(cosines.dtype)
    if reweight:
        weights = weights * kept.sum(1, keepdim=True) / weights.sum(1, keepdim=True).clamp(min=1e-8)
    return weights


@torch.no_grad()
def concentrations(z: Tensor, centroids: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """tau_c (K,) of each cluster, scaled to a mean of ``temperature`` (PCL's form, alpha = 10)."""
    distance = (z - centroids[labels]).norm(dim=1)
    sums = torch.zeros(len(centroids), device=z.device).index_add_(0, labels, distance)
    count = torch.bincount(labels, minlength=len(centroids)).float()
    tau = sums / (count * torch.log(count + 10)).clamp(min=1e-8)
    tau = torch.where(count > 1, tau, tau.max())
    return (tau / tau.mean().clamp(min=1e-8) * temperature).clamp(min=temperature / 10)


class FilteredMoCo(MoCo):
    """The first stage: MoCo with the three corrections, off until ``corrected``."""

    def __init__(
        self, encoder: nn.Module, threshold: float, reweight: bool, prototypes: int, **settings: Any
    ) -> None:
        super().__init__(encoder, **settings)
        self.threshold, self.reweight = threshold, reweight
        self.corrected = False
        self.centroids: Tensor
        self.tau: Tensor
        self.clustered: Tensor
        self.register_buffer("centroids", torch.zeros(prototypes, self.queue.shape[1]))
        self.register_buffer("tau", torch.full((prototypes,), self.temperature))
        self.register_buffer("clustered", torch.full((), -1, dtype=torch.int64))

    def prepare(self, utterances: int, labels: Tensor | None = None) -> None:
        """Make room for the memory."""
        self.memory = Memory(1, utterances, self.queue.shape[1])
        self.assigned: Tensor
        self.register_buffer("assigned", torch.full((utterances,), -100))

    def contrast(self, query: Tensor, key: Tensor, queue: Tensor) -> Tensor:
        """MoCo's loss, corrected once it is time."""
        if not self.corrected:
            return super().contrast(query, key, queue)
        weights = collision_weights(query, queue, self.threshold, self.reweight)
        return moco_loss(query, key, queue, self.temperature, weights)

    def cluster(self, step: int, per_epoch: int) -> None:
        """Cluster the memory once an epoch, alike in every process."""
        seen = torch.nonzero(self.memory.seen).flatten()
        recent = int(self.clustered) >= 0 and step - int(self.clustered) < per_epoch
        if len(seen) < len(self.centroids) or recent:
            return
        x = self.memory.values[0, seen]
        generator = torch.Generator().manual_seed(step)
        centroids, labels, _ = spherical_kmeans(x, len(self.centroids), 10, generator)
        self.centroids.copy_(centroids)
        self.tau.copy_(concentrations(x, centroids, labels, self.temperature))
        self.assigned[seen] = labels
        self.clustered.fill_(step)

    def proto_nce(self, z: Tensor, ids: Tensor) -> Tensor:
        """CE of z (V, B, P) to the own centroid over the utterances that have one."""
        labels = self.assigned[ids].expand(len(z), -1).flatten()
        logits = F.normalize(z, dim=-1).flatten(0, 1) @ self.centroids.T / self.tau
        known = (labels >= 0).sum().clamp(min=1)
        return F.cross_entropy(logits, labels, ignore_index=-100, reduction="sum") / known


class C3Dino(Method):
    """Both stages around one encoder.

    Args:
        encoder: maps (B, F, M) to (B, D), with ``embedding_dim``.
        switch: share of the run after which DINO takes over.
        warmup: share of the first stage without corrections.
        threshold, reweight: of the filter, see above.
        prototypes: clusters of ProtoNCE, 0 = none; DINO has its own in ``dino``.
        proto_weight: of ProtoNCE.
        hidden, projection, queue, temperature, teacher_momentum: MoCo's.
        dino: settings of the second stage.
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        switch: float = 0.5,
        warmup: float = 0.2,
        threshold: float = 0.7,
        reweight: bool = True,
        prototypes: int = 128,
        proto_weight: float = 0.25,
        hidden: int = 512,
        projection: int = 128,
        queue: int = 1024,
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
            queue=queue,
            temperature=temperature,
            teacher_momentum=teacher_momentum,
        )
        self.dino: Dino = parts.build("methods", {"name": "dino", **dino}, encoder)
        self.teacher_prototypes = self.dino.teacher_prototypes
        self.switch, self.warmup, self.proto_weight = (
            switch,
            warmup,
            proto_weight if prototypes else 0.0,
        )
        self.switched: Tensor
        self.register_buffer("switched", torch.full((), -1, dtype=torch.int64))

    def prepare(self, utterances: int, labels: Tensor | None = None) -> None:
        """Make room for the first stage's memory."""
        self.moco.prepare(utterances, labels)

    @property
    def encoder(self) -> nn.Module:
        """The moving average of the stage that is on."""
        return self.dino.encoder if int(self.switched) >= 0 else self.moco.encoder

    def networks(self) -> dict[str, nn.Module]:
        """Return the student, which both stages share, and the current stage's teacher.

        In the second stage the teacher that the first one ended with is there as `moco.teacher`.
        """
        networks = {"student": self.moco.net["encoder"], "teacher": self.encoder}
        if int(self.switched) >= 0:
            networks["moco.teacher"] = self.moco.encoder
        return networks

    def forward(self, views: Sequence[Views], progress: Progress) -> Output:
        """The loss of the stage that is on; the other one's own parameters get a gradient of
        zero.
        """
        if int(self.switched) < 0 and progress.fraction >= self.switch:
            self._switch(progress.step)
        if int(self.switched) >= 0:
            output, idle = (
                self.dino(views, self._dino_progress(progress)),
                self.moco.net["projector"],
            )
        else:
            output, idle = self._contrastive(views, progress), self.dino.student["head"]
        nothing = sum(
            (p.sum() for p in idle.parameters() if p.requires_grad), output.loss.new_zeros(())
        )
        return output._replace(loss=output.loss + 0.0 * nothing)

    def _contrastive(self, views: Sequence[Views], progress: Progress) -> Output:
        self.moco.corrected = progress.fraction >= self.warmup * self.switch
        output = self.moco(views, progress)
        if self.proto_weight and self.training:
            with in_float32(output.projections):
                ids, z = cast(Tensor, views[0].ids), output.projections
                if self.moco.corrected:
                    self.moco.cluster(progress.step, progress.steps_per_epoch)
                term = self.moco.proto_nce(z, ids)
                self.moco.memory.update(ids, z[:1])
            scalars = {"moco": output.loss.detach(), "proto_nce": term.detach()}
            output = output._replace(loss=output.loss + self.proto_weight * term, scalars=scalars)
        return output

    @torch.no_grad()
    def _switch(self, step: int) -> None:
        """Start DINO's student and teacher from the moving average, in place."""
        average = self.moco.teacher["encoder"].state_dict()
        for network in (self.dino.student, self.dino.teacher):
            network["encoder"].load_state_dict(average)
        self.dino.teacher["head"].load_state_dict(self.dino.student["head"].state_dict())
        self.switched.fill_(step)

    def _dino_progress(self, progress: Progress) -> Progress:
        begun = int(self.switched)
        return progress._replace(step=progress.step - begun, steps=max(1, progress.steps - begun))

    def after_backward(self, progress: Progress) -> None:
        """DINO's frozen prototypes."""
        if int(self.switched) >= 0:
            self.dino.after_backward(self._dino_progress(progress))

    def after_step(self, progress: Progress) -> None:
        """Move the teacher of the stage that is on."""
        if int(self.switched) >= 0:
            self.dino.after_step(self._dino_progress(progress))
        else:
            self.moco.after_step(progress)


PART = C3Dino
