"""Additive angular margin softmax, and the gates that keep wrong pseudo-labels out.

* AAM (ArcFace): Deng et al. 2019. The target's logit is s cos(theta + m) in place of
  s cos(theta).
* Sub-centres: Deng et al. 2020. A class has several centres, of which the nearest
  counts; the others are left to noise.
* Inter-top-k penalty: Zhao et al. 2022 (arXiv 2110.05042). The k nearest other classes
  get s cos(theta - m').
* Loss gate: Tao et al. 2022 (loss-gated learning) with a fixed loss; Han et al. 2022
  (DLG-LC) with the point where two Gaussians over the log of the losses are equally
  likely. What is above it is corrected or left out.

Equations and settings: methods/README.md 17.
"""

from __future__ import annotations

import math
import warnings
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["CLEAN", "Beyond", "aam_logits", "centre_cosines", "dynamic_gate"]

Beyond = Literal["arcface", "wespeaker", "none"]
"""What the target's logit is beyond theta = pi - m, see `aam_logits`."""

CLEAN = 1e-2
"""Loss, in nats, below which a label is taken to be right without fitting anything."""

MOST_LOSSES = 100_000
"""Losses that the gate's mixture is fitted to; of more, a sample (4 s for this many)."""


def centre_cosines(embeddings: Tensor, centres: Tensor) -> Tensor:
    """Return the cosines (N, C) of embeddings with the nearest of each class's centres.

    Args:
        embeddings: (N, D).
        centres: (C, S, D), S sub-centres a class.
    """
    embeddings = F.normalize(embeddings, dim=-1)
    centres = F.normalize(centres, dim=-1)
    return torch.einsum("nd,csd->ncs", embeddings, centres).amax(-1)


def _cosine_of_sum(cosine: Tensor, angle: float) -> Tensor:
    """Return cos(theta + angle) for the cosine of theta in [0, pi]."""
    sine = (1.0 - cosine.square()).clamp(min=1e-9).sqrt()
    return cosine * math.cos(angle) - sine * math.sin(angle)


def aam_logits(
    cosines: Tensor,
    labels: Tensor,
    scale: float,
    margin: float,
    topk: int = 0,
    penalty: float = 0.0,
    beyond: Beyond = "arcface",
) -> Tensor:
    """Return logits (N, C), with a margin on the target and a penalty on its rivals.

    Beyond theta = pi - m, cos(theta + m) would rise again. The released programs differ
    in what they do there:

    * `arcface`: cos(theta) - m sin(m), which goes on falling (the paper's program,
      voxceleb_trainer, wavlm_ssl_sv). It jumps by 1 - cos(m) - m sin(m), about
      -m^2 / 2, at pi - m.
    * `wespeaker`: cos(theta) - (1 - cos(m)), which goes on falling without a jump.
    * `none`: cos(theta + m) everywhere (hyperion).

    Args:
        cosines: (N, C) of embeddings with class centres.
        labels: (N,) int64, the target classes.
        scale: s.
        margin: m, radians.
        topk: k, how many of the nearest other classes are penalised.
        penalty: m', radians.
        beyond: which of the three.
    """
    target = cosines.gather(1, labels[:, None])
    target_with_margin = _cosine_of_sum(target, margin)
    if beyond != "none":
        lowered = margin * math.sin(margin) if beyond == "arcface" else 1 - math.cos(margin)
        is_beyond = target <= -math.cos(margin)
        target_with_margin = torch.where(is_beyond, target - lowered, target_with_margin)
    penalised = cosines
    if topk and penalty:
        others = cosines.detach().scatter(1, labels[:, None], -2.0)
        nearest = others.topk(min(topk, cosines.shape[1] - 1), dim=1).indices
        rivals = _cosine_of_sum(cosines.gather(1, nearest), -penalty)
        penalised = cosines.scatter(1, nearest, rivals)
    return scale * penalised.scatter(1, labels[:, None], target_with_margin)


def dynamic_gate(losses: Tensor) -> float:
    """Return the loss at which two Gaussians over log(loss) are equally likely.

    Losses below `CLEAN` are left out of the fit: many are exactly 0 in float32 (s =
    30), a spike that one of the two Gaussians would fit alone. Of more than
    `MOST_LOSSES` a sample is fitted, which is drawn with a fixed seed. Between the two
    means the posterior of the lower one falls once through one half.

    Args:
        losses: (N,) one loss of each utterance.

    Returns:
        The gate; infinity if there are not two groups of losses.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    logs = losses[losses > CLEAN].double().log().cpu().numpy()[:, None]
    if len(logs) < 4 or np.ptp(logs) < 1e-6:
        return math.inf
    if len(logs) > MOST_LOSSES:
        rng = np.random.default_rng(0)
        logs = logs[rng.choice(len(logs), MOST_LOSSES, replace=False)]
    # With scikit-learn's tolerance of 1e-3 EM stops after 4 or 5 iterations, before the
    # narrower group is found: 13 % of the right labels were stopped, where 1 % is.
    mixture = GaussianMixture(2, reg_covar=1e-2, tol=1e-5, max_iter=1000, random_state=0)
    with warnings.catch_warnings():
        # k-means, which starts the mixture, warns where the losses have one value only
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.fit(logs)
    low_mean, high_mean = sorted(mixture.means_.ravel())
    lower = int(mixture.means_.argmin())
    between = np.linspace(low_mean, high_mean, 1000)
    posterior = mixture.predict_proba(between[:, None])[:, lower]
    if posterior[0] < 0.5:
        return float(np.exp(low_mean))
    last_below = int((posterior >= 0.5).sum()) - 1
    return float(np.exp(between[last_below]))
