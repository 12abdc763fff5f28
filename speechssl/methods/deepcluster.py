"""DeepCluster-v2: predict the cluster of an utterance's earlier projection (Caron et al. 2020).

A memory holds the last projection of each long view of every utterance. From time to
time spherical k-means clusters it, once a head (heads take the views in turn), and the
centroids become that head's prototypes, which no gradient moves. Until the next time
every view learns its utterance's cluster:

    L = mean over heads and views of CE(cluster, softmax(cosine / tau)),  tau = 0.1

(methods/README.md 6.7; the paper describes it in its appendix). The released program
clusters once an epoch, with a pass over the data before the first. Here the memory
fills while training: clusters are made as soon as four times K utterances have been
seen (or all), then every ``cluster_every`` epochs; utterances not seen yet are left out
of the loss. An empty cluster moves to the utterance that its own centroid serves worst,
where the release keeps its centroid. As released, the projector runs once, on the views
of all lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from speechssl.clustering.kmeans import spherical_kmeans
from speechssl.interfaces import Encoder, Method, Output, Progress, Views
from speechssl.nn.host_number import host_number
from speechssl.nn.memory import Memory
from speechssl.nn.mlp import mlp
from speechssl.nn.precision import in_float32
from speechssl.nn.siamese import Network, project

NO_CLUSTER = -100
"""Assignment of an utterance that was not seen before the last clustering."""


class DeepCluster(Method):
    """Encoder, projector, memory and clusters.

    Args:
        encoder: the encoder to train.
        hidden, projection: sizes of the projector's layers.
        prototypes: K, clusters of each head.
        heads: how many clusterings there are.
        temperature: tau, which divides the cosines.
        cluster_every: epochs between clusterings.
        kmeans_iterations: iterations of k-means at most.
    """

    RENAMED: ClassVar[dict[str, str]] = {
        "refresh": "cluster_every",
        "iterations": "kmeans_iterations",
    }

    prototypes: Tensor
    """(H, K, P) centroids of unit length."""

    assigned: Tensor
    """(H, N) cluster of each utterance, or ``NO_CLUSTER``."""

    clustered: Tensor
    """Step of the last clustering, -1 before the first."""

    def __init__(
        self,
        encoder: Encoder,
        *,
        hidden: int = 512,
        projection: int = 128,
        prototypes: int = 128,
        heads: int = 3,
        temperature: float = 0.1,
        cluster_every: float = 1.0,
        kmeans_iterations: int = 10,
    ) -> None:
        super().__init__()
        self.net = Network(encoder, mlp([encoder.embedding_dim, hidden, projection]))
        self.temperature = temperature
        self.cluster_every = cluster_every
        self.kmeans_iterations = kmeans_iterations
        centroids = F.normalize(torch.randn(heads, prototypes, projection), dim=-1)
        self.register_buffer("prototypes", centroids)
        self.register_buffer("clustered", torch.full((), -1, dtype=torch.int64))

    def prepare(self, utterances: int, labels: Tensor | None = None) -> None:
        """Make the memory of ``utterances`` projections and their assignments."""
        heads, _, dim = self.prototypes.shape
        self.memory = Memory(2, utterances, dim)
        self.register_buffer("assigned", torch.full((heads, utterances), NO_CLUSTER))

    @property
    def encoder(self) -> Encoder:
        """The encoder that is trained."""
        return self.net.encoder

    def forward(self, views: Sequence[Views], progress: Progress) -> Output:
        """Return the loss over the utterances with a cluster; 0 before the first clustering."""
        embeddings, z, long = project(self.net, views, at_once=True)
        ids = views[0].ids
        with in_float32(z):
            z = F.normalize(z, dim=-1)
            if self.training:
                if self._is_due(progress):
                    self._cluster(progress.step)
                self.memory.update(ids, torch.stack([z[0], z[long - 1]]))
            labels = self.assigned[:, ids]  # (H, B)
            loss = self._cross_entropy(z, labels)
        scalars = {"clustered": (labels >= 0).float().mean()}
        return Output(loss, scalars, embeddings[:long].flatten(0, 1).detach(), z)

    def _cross_entropy(self, z: Tensor, labels: Tensor) -> Tensor:
        """Return the mean over views z (V, B, P), heads, and labels (H, B) that are known."""
        logits = torch.einsum("vbp,hkp->hvbk", z, self.prototypes) / self.temperature
        targets = labels[:, None].expand(-1, len(z), -1)  # (H, V, B)
        total = F.cross_entropy(
            logits.flatten(0, 2), targets.flatten(), ignore_index=NO_CLUSTER, reduction="sum"
        )
        known = (targets >= 0).sum()
        return total / known.clamp(min=1)

    def _is_due(self, progress: Progress) -> bool:
        """True if enough utterances were seen and the last clustering is long enough ago."""
        last = host_number(self.clustered)
        if last >= 0:  # all that the first clustering needed is still there
            return progress.step - last >= self.cluster_every * progress.steps_per_epoch
        prototypes = self.prototypes.shape[1]
        seen = int(self.memory.seen.sum())
        return seen >= max(prototypes, min(4 * prototypes, len(self.memory.seen)))

    def _cluster(self, step: int) -> None:
        """Cluster the memory; all processes find the same, because the step is the seed."""
        heads, prototypes, _ = self.prototypes.shape
        seen = torch.nonzero(self.memory.seen).flatten()
        generator = torch.Generator().manual_seed(step)
        for head in range(heads):
            x = self.memory.values[head % 2, seen]
            centroids, labels, _ = spherical_kmeans(
                x, prototypes, self.kmeans_iterations, generator
            )
            self.prototypes[head] = centroids
            self.assigned[head, seen] = labels
        self.clustered.fill_(step)


PART = DeepCluster
