"""Better or worse, without labels: held-out recordings, judged by themselves.

Of each held-out piece two windows that do not overlap are drawn. The first stays as it is, the
second goes through another channel (room, noise, filter, codec). Two confusions are measured: the
share of rivals that are at least as near to a window as its partner, in percent (0 is perfect, 50
chance; the mean is one minus the area under the curve of that task).

* Apart: the partner is the other window of the piece, rivals are windows of all other recordings.
  A model that takes different voices for one is worse here.
* Together: partners are windows of other recordings in the same cluster, by either of the two
  models that are compared; rivals are those in other clusters by both. A model that takes the
  sessions of one voice for different voices is worse here, though it is better apart: that is how
  an adaptation to recordings of few people harms, and `apart` alone would praise it.

A changed model has to lose neither, and to win on the sum beyond chance. Both models see the same
samples, windows share no words and no channel, the recordings taught nothing, and the interval is
over recordings, paired. What it cannot see is a mistake that the clusters of both models make.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from speechssl import metrics
from speechssl.adapt.pairs import Pairs, Rows
from speechssl.clustering.steps import prepared
from speechssl.diagnostics.effective_rank import effective_rank
from speechssl.evaluation.verification.scoring import unit

REPLICATES = 2000
CLUSTER_SHARES = (2, 3, 4, 6, 8, 12, 16, 24, 32, 64)
"""Pieces of a cluster, on average: numbers of clusters that are tried."""

MIN_SILHOUETTE = 0.1
"""Below it clusters are arbitrary (rows at equal distances have about 0)."""

MIN_RANK_SHARE = 0.5
"""A model whose embeddings lose more than half of their effective rank is not kept."""


@dataclass(frozen=True)
class Judgement:
    """How a changed model compares with the one before.

    Attributes:
        apart: confusion of the changed model, percent; see the module's description.
        apart_before: of the model before, by the same windows.
        together: the same for partners in other recordings; None: no cluster has two recordings.
        together_before: of the model before.
        gain: interval of what both confusions have lost together, before minus after.
        rank: effective rank of the embeddings of the windows as they are.
        rank_before: of the model before.
    """

    apart: float
    apart_before: float
    together: float | None
    together_before: float | None
    gain: tuple[float, float]
    rank: float
    rank_before: float

    @property
    def collapsed(self) -> bool:
        """True if the embeddings use far fewer directions than before."""
        return self.rank < MIN_RANK_SHARE * self.rank_before

    @property
    def loses(self) -> bool:
        """True if one of the confusions has grown."""
        has_both = self.together is not None and self.together_before is not None
        grew = has_both and (self.together or 0.0) > (self.together_before or 0.0)
        return self.apart > self.apart_before or grew

    @property
    def is_better(self) -> bool:
        """True if the interval of the gain is above 0, neither has grown, and nothing collapsed."""
        return self.gain[0] > 0 and not self.loses and not self.collapsed

    @property
    def total(self) -> float:
        """Sum of both confusions."""
        return self.apart + (self.together or 0.0)


def compare(before: Pairs, after: Pairs, *, models: int, seed: int) -> Judgement:
    """Compare a changed model with the one before.

    Args:
        before: its held-out windows.
        after: the same windows by the changed model.
        models: how many changed models are compared; the interval is wide enough for all of them
            together (Bonferroni, 95 %).
        seed: of the bootstrap over recordings.
    """
    different = before.recordings[:, None] != before.recordings[None, :]
    own = np.eye(len(different), dtype=bool)
    linked = [_same_cluster(pairs) & different for pairs in (before, after)]
    joined = linked[0] | linked[1]
    apart = []
    together = []
    for pairs in (before, after):
        scores = _scores(pairs)
        apart.append(confusions(scores, own, different))
        together.append(confusions(scores, joined, different & ~joined))
    # A piece without a partner in another recording says nothing about `together`.
    has_partner = ~np.isnan(together[0])
    gains = np.stack([apart[0] - apart[1], together[0] - together[1]])

    def gain(weights: NDArray[np.int64]) -> float:
        total = float(np.average(gains[0], weights=weights))
        if weights[has_partner].any():
            chosen = gains[1][has_partner]
            total += float(np.average(chosen, weights=weights[has_partner]))
        return total

    interval = metrics.bootstrap_interval(
        gain,
        before.recordings,
        replicates=REPLICATES,
        confidence=1 - 0.05 / models,
        seed=seed,
    )
    return Judgement(
        apart=float(apart[1].mean()),
        apart_before=float(apart[0].mean()),
        together=_mean(together[1][has_partner]),
        together_before=_mean(together[0][has_partner]),
        gain=interval or (float("-inf"), float("inf")),
        rank=effective_rank(torch.from_numpy(after.plain)),
        rank_before=effective_rank(torch.from_numpy(before.plain)),
    )


def _mean(values: NDArray[np.float64]) -> float | None:
    return float(values.mean()) if len(values) else None


def confusions(
    scores: Rows, partner: NDArray[np.bool_], rival: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return the confusion (N,) of each pair, percent; NaN where it has no partner or no rival.

    The mean over a row and a column: over the plain window and over the changed one.

    Args:
        scores: (N, N) cosines of plain windows (rows) with changed ones (columns).
        partner: (N, N) which should be near.
        rival: (N, N) which should be less near.
    """
    sides = np.full((2, len(scores)), np.nan)
    for side, (cosines, near, far) in enumerate(
        ((scores, partner, rival), (scores.T, partner.T, rival.T))
    ):
        for row in range(len(cosines)):
            if near[row].any() and far[row].any():
                sides[side, row] = _lost(cosines[row][near[row]], cosines[row][far[row]])
    return np.asarray(sides.mean(0))


def _lost(partners: Rows, rivals: Rows) -> float:
    """Return the percentage of pairs of a partner and a rival in which the rival is nearer.

    Ties count half.
    """
    ordered = np.sort(rivals)
    nearer = len(ordered) - np.searchsorted(ordered, partners, side="right")
    ties = len(ordered) - np.searchsorted(ordered, partners, side="left") - nearer
    return float(100 * (nearer + 0.5 * ties).mean() / len(ordered))


def _same_cluster(pairs: Pairs) -> NDArray[np.bool_]:
    """Return which pairs are of pieces in one cluster, (N, N), by a model's own embeddings.

    The plain windows of a piece are averaged, and Ward's tree over the pieces is cut where the
    silhouette is highest.
    """
    pieces, place = np.unique(pairs.pieces, return_inverse=True)
    sums = np.zeros((len(pieces), pairs.plain.shape[1]), np.float32)
    np.add.at(sums, place, unit(pairs.plain))
    labels = best_clusters(prepared(sums))[place]
    return np.asarray(labels[:, None] == labels[None, :])


def best_clusters(rows: Rows) -> NDArray[np.int64]:
    """Return clusters (N,) of unit vectors (N, D): Ward's tree, cut where the silhouette is highest.

    Where it is below `MIN_SILHOUETTE`, and with fewer than four rows, each row is a cluster.
    """
    from sklearn.cluster import AgglomerativeClustering
    from sklearn.metrics import silhouette_score

    found = np.arange(len(rows))
    best = MIN_SILHOUETTE
    for share in CLUSTER_SHARES:
        count = len(rows) // share
        if not 2 <= count < len(rows) - 1:
            continue
        labels = AgglomerativeClustering(n_clusters=count, linkage="ward").fit_predict(rows)
        silhouette = float(silhouette_score(rows, labels, metric="cosine"))
        if silhouette > best:
            best = silhouette
            found = np.asarray(labels, np.int64)
    return found


def _scores(pairs: Pairs) -> Rows:
    """Return cosines (N, N) of every plain window with every changed one."""
    scores: Rows = unit(pairs.plain) @ unit(pairs.changed).T
    return scores
