"""CCFC: SimSiam, then the consistency of clusters that several clients share.

    without labels: L = L_SimSiam + global_weight L_global                  (methods/README.md 14.2)
    with labels:    L = L_clusters + global_weight L_global
    L_clusters = mean over clusters c with two members in the batch of
                 -mean over ordered pairs (i, j) of c, i = j included, of cos(p_i, sg z_j)
    L_global   = -mean of cos(p, sg p_global)

From the federated deep clustering of CCFC-pytorch (Jarvisyan, 7645244). Here p = h(z) is a
prediction of one view, z the projection of another one. p_global is the prediction, for the same
crop, of the weights that all clients started their round from (`Method.start_round`); outside
`speechssl federate` it is that of the initial weights, so set ``global_weight=0`` there. The labels
(``data.pseudo_labels``; `speechssl federate` writes them where ``federated.clusters`` is set) are
the nearest of the centroids that the server has. A batch in which no cluster has two members is
trained as without labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from speechssl.distributed import gather_with_gradient, gather_without_gradient
from speechssl.errors import UserError
from speechssl.interfaces import Encoder, Output, Progress, Views
from speechssl.methods.simsiam import SimSiam, predictive_loss
from speechssl.nn.moving_average import teacher_of
from speechssl.nn.precision import in_float32
from speechssl.nn.siamese import ordered_pairs, project


def cluster_loss(p: Tensor, z: Tensor, labels: Tensor) -> Tensor | None:
    """Return minus the mean cosine between members of a cluster, averaged over clusters.

    The mean over all ordered pairs of a cluster is the product of the means of its
    unit vectors.

    Args:
        p: (N, P) predictions, with gradient.
        z: (N, P) projections, detached.
        labels: (N,) int64 clusters.

    Returns:
        A scalar in [-1, 1], or None where no cluster has two members.
    """
    _, cluster, count = torch.unique(labels, return_inverse=True, return_counts=True)
    shared = count > 1
    if not bool(shared.any()):
        return None
    size = count[:, None].to(p.dtype)
    shape = (len(count), p.shape[1])
    mean_p = p.new_zeros(shape).index_add(0, cluster, F.normalize(p, dim=1)) / size
    mean_z = z.new_zeros(shape).index_add(0, cluster, F.normalize(z, dim=1)) / size
    cosines: Tensor = (mean_p * mean_z).sum(1)[shared]
    return -cosines.mean()


class Ccfc(SimSiam):
    """Encoder, projector and predictor, and the same of the weights of all clients.

    Args:
        encoder: the encoder to train.
        hidden, projection: sizes of the projector's layers.
        output_norm: BatchNorm (without weights) after the projector.
        predictor: one of ``predictors/``.
        global_weight: of the term that holds predictions near those of all clients' weights;
            0: none.

    Raises:
        UserError: ``global_weight`` is below 0.
    """

    NEEDS_LABELS: ClassVar[bool] = True  # takes them; without them it is stage 1
    OWN_STATE: ClassVar[tuple[str, ...]] = ("labels",)

    labels: Tensor
    """(N,) cluster of each utterance, -1 without clusters."""

    def __init__(
        self,
        encoder: Encoder,
        *,
        hidden: int = 512,
        projection: int = 128,
        output_norm: bool = True,
        predictor: Any = "mlp",
        global_weight: float = 0.001,
    ) -> None:
        super().__init__(
            encoder,
            hidden=hidden,
            projection=projection,
            output_norm=output_norm,
            predictor=predictor,
        )
        if global_weight < 0:
            raise UserError(
                f"config: method.global_weight must be at least 0, not {global_weight:g}"
            )
        self.global_weight = global_weight
        self.global_net = teacher_of(self.net)
        self.global_predictor = teacher_of(self.predictor)

    def prepare(self, utterances: int, labels: Tensor | None = None) -> None:
        """Keep the table of labels."""
        if labels is None:
            labels = torch.full((utterances,), -1)
        self.register_buffer("labels", labels.clone())

    def start_round(self) -> None:
        """Keep the weights of all clients."""
        self.global_net.load_state_dict(self.net.state_dict())
        self.global_predictor.load_state_dict(self.predictor.state_dict())

    def forward(self, views: Sequence[Views], progress: Progress) -> Output:
        """Return the loss of a batch."""
        online = project(self.net, views)
        with in_float32(online.z):
            targets = online.z[: online.long].detach()
            if self.training:
                self.predictor.observe(gather_without_gradient(targets).flatten(0, 1))
            own = self._clusters(online.z, targets, views[0])
            if own is None:
                own = predictive_loss(online.z, targets, self.predictor)
            loss = own
            scalars = {"own": own.detach()}
            if self.global_weight:
                term = self._global(online.z, views)
                loss = own + self.global_weight * term
                scalars["global"] = term.detach()
        embeddings = online.embeddings[: online.long].flatten(0, 1).detach()
        return Output(loss, scalars, embeddings, online.z)

    def _clusters(self, z: Tensor, targets: Tensor, views: Views) -> Tensor | None:
        """Return L_clusters over all pairs of views, or None where there are no clusters."""
        labels = self.labels
        if views.ids is None or not len(labels) or bool(labels[0] < 0):
            return None
        own = gather_without_gradient(labels[views.ids][None])[0]
        terms = []
        for u, v in ordered_pairs(len(targets), len(z)):
            predictions = gather_with_gradient(self.predictor(z[v])[None])[0]
            joined = gather_without_gradient(targets[u][None])[0]
            term = cluster_loss(predictions, joined, own)
            if term is None:
                return None
            terms.append(term)
        return torch.stack(terms).mean()

    def _global(self, z: Tensor, views: Sequence[Views]) -> Tensor:
        """Return L_global over all views."""
        with torch.no_grad():
            wanted = [self.global_predictor(view) for view in project(self.global_net, views).z]
        cosines = [
            F.cosine_similarity(self.predictor(view), target, dim=1).mean()
            for view, target in zip(z, wanted, strict=True)
        ]
        return -torch.stack(cosines).mean()


PART = Ccfc
