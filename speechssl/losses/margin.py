"""Additive angular margin softmax and the gates that keep wrong pseudo-labels out, as plain
functions.

* AAM (ArcFace): Deng et al. 2019. The target's logit is s cos(theta + m) in place of s cos(theta).
* Sub-centres: Deng et al. 2020. A class has several centres; the nearest one counts, and noise has room.
* Inter-top-k penalty: Zhao et al. 2022 (arXiv 2110.05042). The k nearest others get s cos(theta - m').
* Loss gate: Tao et al. 2022 (loss-gated learning) with a fixed loss; Han et al. 2022 (DLG-LC) with the point
  where two Gaussians over the log of the losses are equally likely. What is above it is corrected
  or left out.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

CLEAN = 1e-2  # nats


def centre_cosines(embeddings: Tensor, centres: Tensor) -> Tensor:
    """Cosines (N, C) of embeddings (N, D) with the nearest of each class's centres (C, S, D)."""
    cosines = torch.einsum(
        "nd,csd->ncs", F.normalize(embeddings, dim=-1), F.normalize(centres, dim=-1)
    )
    return cosines.amax(-1)


def _turned(cosine: Tensor, angle: float) -> Tensor:
    """cos(theta + angle) for the cosine of theta in [0, pi]."""
    sine = (1.0 - cosine.square()).clamp(min=1e-9).sqrt()
    return cosine * math.cos(angle) - sine * math.sin(angle)


def aam_logits(
    cosines: Tensor,
    labels: Tensor,
    scale: float,
    margin: float,
    topk: int = 0,
    penalty: float = 0.0,
) -> Tensor:
    """Logits (N, C) with the margin on the target and the penalty on the ``topk`` nearest other
    classes.

    Beyond theta = pi - m, where cos(theta + m) would rise again, the target's logit goes on
    falling: cos(theta) - m sin(m), as all released programs have it.

    Args:
        cosines: (N, C). labels: (N,) int64. scale: s. margin: m, penalty: m', radians.
    """
    target = cosines.gather(1, labels[:, None])
    beyond = target <= -math.cos(margin)
    with_margin = torch.where(beyond, target - margin * math.sin(margin), _turned(target, margin))
    out = cosines
    if topk and penalty:
        others = cosines.detach().scatter(1, labels[:, None], -2.0)
        nearest = others.topk(min(topk, cosines.shape[1] - 1), dim=1).indices
        out = out.scatter(1, nearest, _turned(cosines.gather(1, nearest), -penalty))
    return scale * out.scatter(1, labels[:, None], with_margin)


def dynamic_gate(losses: Tensor) -> float:
    """The loss at which two Gaussians over log(loss) (N,) are equally likely; infinity if there are
    not two.

    Losses below ``CLEAN`` are beyond doubt and not fitted: many are exactly 0 in float32 (s = 30),
    a point mass that would take a Gaussian for itself. Between the two means the posterior of the
    lower falls once through one half.
    """
    from sklearn.mixture import GaussianMixture

    logs = losses[losses > CLEAN].double().log().cpu().numpy()[:, None]
    if len(logs) < 4 or np.ptp(logs) < 1e-6:
        return math.inf
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not quite converged is close enough for a gate
        mixture = GaussianMixture(2, reg_covar=1e-2, random_state=0).fit(logs)
    low, high = sorted(mixture.means_.ravel())
    between = np.linspace(low, high, 1000)
    clean = mixture.predict_proba(between[:, None])[:, int(mixture.means_.argmin())]
    return (
        float(np.exp(between[int((clean >= 0.5).sum()) - 1]))
        if clean[0] >= 0.5
        else float(np.exp(low))
    )
