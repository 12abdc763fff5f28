"""DeepCluster-v2: predict the cluster that an utterance fell into before.

Caron et al. 2020, appendix.

A memory holds the last projection of each long view of every utterance. From time to time spherical
k-means clusters it, once a head (heads take the views in turn), and the centroids become that
head's prototypes, which no gradient moves. Until the next time every view learns its utterance's
cluster:

    L = mean over heads and views of CE(cluster, softmax(cosine / tau)),  tau = 0.1  (methods/README.md 6)

The released program clusters once an epoch, with a pass over the data before the first. Here the
memory fills while training: clusters are made as soon as four times K utterances have been seen (or
all), then every ``refresh`` epochs; utterances not seen yet are left out of the loss. Empty
clusters take over a badly served utterance, where the release keeps their centroid.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechssl.clustering.kmeans import spherical_kmeans
from speechssl.interfaces import Method, Output, Progress, Views
from speechssl.nn.memory import Memory
from speechssl.nn.mlp import mlp
from speechssl.nn.siamese import network, project, width
from speechssl.nn.views import in_float32


class DeepCluster(Method):
    """Encoder, projector, memory and clusters.

    Args:
        encoder: maps (B, F, M) to (B, D), with ``embedding_dim``.
        hidden, projection: sizes of the projector's layers.
        prototypes: K, clusters of each head.
        heads: clusterings.
        temperature: tau.
        refresh: epochs between clusterings.
        iterations: of k-means.
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        hidden: int = 512,
        projection: int = 128,
        prototypes: int = 128,
        heads: int = 3,
        temperature: float = 0.1,
        refresh: float = 1.0,
        iterations: int = 10,
    ) -> None:
        super().__init__()
        self.net = network(encoder, mlp([width(encoder), hidden, projection]))
        self.temperature, self.refresh, self.iterations = temperature, refresh, iterations
        self.prototypes: Tensor
        self.clustered: Tensor
        self.register_buffer(
            "prototypes", F.normalize(torch.randn(heads, prototypes, projection), dim=-1)
        )
        self.register_buffer("clustered", torch.full((), -1, dtype=torch.int64))

    def prepare(self, utterances: int, labels: Tensor | None = None) -> None:
        """Make room for the memory and the assignments, -100 for none."""
        heads, _, dim = self.prototypes.shape
        self.memory = Memory(2, utterances, dim)
        self.assigned: Tensor
        self.register_buffer("assigned", torch.full((heads, utterances), -100))

    @property
    def encoder(self) -> nn.Module:
        """The encoder that is trained."""
        return self.net["encoder"]

    def forward(self, views: Sequence[Views], progress: Progress) -> Output:
        """The loss over the utterances that have a cluster; 0 before the first clustering."""
        embeddings, z, long = project(self.net, views)
        ids = views[0].ids
        with in_float32(z):
            z = F.normalize(z, dim=-1)
            if self.training:
                self._cluster(progress)
                self.memory.update(ids, z[[0, long - 1]])
            labels = self.assigned[:, ids]  # (H, B)
            logits = torch.einsum("vbp,hkp->hvbk", z, self.prototypes) / self.temperature
            targets = labels[:, None].expand(-1, len(z), -1)
            known = (targets >= 0).sum()
            total = F.cross_entropy(
                logits.flatten(0, 2), targets.flatten(), ignore_index=-100, reduction="sum"
            )
            loss = total / known.clamp(min=1)
        scalars = {"clustered": (labels >= 0).float().mean()}
        return Output(loss, scalars, embeddings[:long].flatten(0, 1).detach(), z)

    def _cluster(self, progress: Progress) -> None:
        """Cluster the memory if it is time; every process finds the same from the same seed."""
        heads, prototypes, _ = self.prototypes.shape
        seen = torch.nonzero(self.memory.seen).flatten()
        last, period = int(self.clustered), self.refresh * progress.steps_per_epoch
        if len(seen) < max(prototypes, min(4 * prototypes, len(self.memory.seen))):
            return
        if last >= 0 and progress.step - last < period:
            return
        generator = torch.Generator().manual_seed(progress.step)
        for head in range(heads):
            x = self.memory.values[head % 2, seen]
            centroids, labels, _ = spherical_kmeans(x, prototypes, self.iterations, generator)
            self.prototypes[head] = centroids
            self.assigned[head, seen] = labels
        self.clustered.fill_(progress.step)


PART = DeepCluster
