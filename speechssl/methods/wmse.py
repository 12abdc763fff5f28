"""W-MSE: compare views after whitening each of them (Ermolov et al. 2021, ICML).

In sub-batches of ``size`` utterances, the same for both views, z is centred and whitened with the
Cholesky factor of its shrunk covariance, C = (1 - eps) Cov + eps I = L Lᵀ, w = L^-1 (z - mu), and

    L = 2 - 2 cos(w1, w2),

averaged over utterances and over ``partitions`` random divisions into sub-batches (methods/README.md 5.4).
Both branches get gradient; a simplified form elsewhere that detaches one has half of it.
``symmetric`` whitens with C^(-1/2) (ZCA) instead: w then follows any rotation of z. A sub-batch
must be larger than the projection (twice is advised), or eps at least 1e-3.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechssl.errors import UserError
from speechssl.interfaces import Progress
from speechssl.nn.mlp import mlp
from speechssl.nn.siamese import PairMethod, width


def whiten(z: Tensor, eps: float = 0.0, symmetric: bool = False) -> Tensor:
    """(..., N, D) centred and whitened over N, so that its (unbiased) covariance is I at eps = 0.

    Raises:
        UserError: the covariance has no Cholesky factor: too few samples for the dimension.
    """
    z = z - z.mean(-2, keepdim=True)
    covariance = z.mT @ z / (z.shape[-2] - 1)
    covariance = (1 - eps) * covariance + eps * torch.eye(
        z.shape[-1], device=z.device, dtype=z.dtype
    )
    if symmetric:
        s, u = torch.linalg.eigh(covariance)
        return z @ (u * s.clamp(min=1e-12).rsqrt()[..., None, :]) @ u.mT
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if bool(failed.any()):
        raise UserError(
            f"wmse: {z.shape[-2]} samples in {z.shape[-1]} dimensions have no whitening; raise"
            " method.size (twice method.projection or more) or method.eps (1e-3)"
        )
    return torch.linalg.solve_triangular(factor, z.mT, upper=False).mT


class WMSE(PairMethod):
    """Encoder and projector.

    Args:
        encoder: maps (B, F, M) to (B, D), with ``embedding_dim``.
        hidden, projection: sizes of the projector's layers.
        size: utterances of a sub-batch, 0 = all in one.
        partitions: random divisions into sub-batches that are averaged.
        eps: shrinkage of the covariance.
        symmetric: ZCA in place of Cholesky.
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        hidden: int = 512,
        projection: int = 32,
        size: int = 0,
        partitions: int = 4,
        eps: float = 1e-3,
        symmetric: bool = False,
    ) -> None:
        super().__init__(encoder, mlp([width(encoder), hidden, projection]))
        self.size, self.eps, self.symmetric = size, eps, symmetric
        self.partitions = partitions if size else 1
        self.min_batch = size or 2

    def pair(
        self, one: Tensor, two: Tensor, progress: Progress
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean over partitions; what does not fill a sub-batch is left out of that
        partition.
        """
        count = len(one)
        size = self.size or count
        groups = (
            [torch.arange(count)]
            if size == count
            else [torch.randperm(count) for _ in range(self.partitions)]
        )
        chosen = torch.stack([g[: count // size * size].view(-1, size) for g in groups]).to(
            one.device
        )
        first, second = (whiten(z[chosen], self.eps, self.symmetric) for z in (one, two))
        return 2 - 2 * F.cosine_similarity(first, second, dim=-1).mean(), {}


PART = WMSE
