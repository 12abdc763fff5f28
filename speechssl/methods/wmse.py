"""W-MSE: compare views after whitening each of them (Ermolov et al. 2021, ICML).

In sub-batches of ``whitening_size`` utterances, the same for both views, z is centred
and whitened with the Cholesky factor of its shrunk covariance, C = (1 - eps) Cov + eps
I = L Lᵀ, w = L^-1 (z - mu), and

    L = 2 - 2 cos(w1, w2),

averaged over utterances and over ``partitions`` random divisions into sub-batches
(methods/README.md 5.4). Both branches get gradient; a simplified form elsewhere that
detaches one has half of it. ``symmetric`` whitens with C^(-1/2) (ZCA) instead: w then
follows any rotation of z. A sub-batch must be larger than the projection (twice is
advised), or eps at least 1e-3.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from speechssl.errors import UserError
from speechssl.interfaces import Encoder, Progress
from speechssl.nn.mlp import mlp
from speechssl.nn.siamese import PairMethod


def whiten(z: Tensor, eps: float = 0.0, symmetric: bool = False) -> Tensor:
    """Return z (..., N, D) centred and whitened over N: its (unbiased) covariance is I at eps = 0.

    Raises:
        UserError: the covariance has no Cholesky factor: too few samples for the
            dimension.
    """
    z = z - z.mean(-2, keepdim=True)
    covariance = z.mT @ z / (z.shape[-2] - 1)
    identity = torch.eye(z.shape[-1], device=z.device, dtype=z.dtype)
    covariance = (1 - eps) * covariance + eps * identity
    if symmetric:
        eigenvalues: Tensor
        eigenvectors: Tensor
        eigenvalues, eigenvectors = torch.linalg.eigh(covariance)
        scale = eigenvalues.clamp(min=1e-12).rsqrt()
        return z @ (eigenvectors * scale[..., None, :]) @ eigenvectors.mT
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if bool(failed.any()):
        raise UserError(
            f"wmse: {z.shape[-2]} samples in {z.shape[-1]} dimensions have no whitening; raise"
            " method.whitening_size (twice method.projection or more) or method.whitening_eps"
            " (1e-3)"
        )
    whitened: Tensor = torch.linalg.solve_triangular(factor, z.mT, upper=False).mT
    return whitened


class WMSE(PairMethod):
    """Encoder and projector.

    Args:
        encoder: the encoder to train.
        hidden, projection: sizes of the projector's layers.
        whitening_size: utterances of a sub-batch, 0 = all in one.
        partitions: random divisions into sub-batches that are averaged.
        whitening_eps: shrinkage of the covariance.
        symmetric: ZCA in place of Cholesky.
    """

    RENAMED: ClassVar[dict[str, str]] = {"size": "whitening_size", "eps": "whitening_eps"}

    def __init__(
        self,
        encoder: Encoder,
        *,
        hidden: int = 512,
        projection: int = 32,
        whitening_size: int = 0,
        partitions: int = 4,
        whitening_eps: float = 1e-3,
        symmetric: bool = False,
    ) -> None:
        super().__init__(encoder, mlp([encoder.embedding_dim, hidden, projection]))
        self.whitening_size = whitening_size
        self.partitions = partitions if whitening_size else 1
        self.whitening_eps = whitening_eps
        self.symmetric = symmetric
        self.min_batch = whitening_size or 2

    def pair(
        self, one: Tensor, two: Tensor, progress: Progress
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean loss over the partitions of two views (N, P); there are no terms."""
        rows = self._sub_batches(len(one)).to(one.device)
        first = whiten(one[rows], self.whitening_eps, self.symmetric)
        second = whiten(two[rows], self.whitening_eps, self.symmetric)
        return 2 - 2 * F.cosine_similarity(first, second, dim=-1).mean(), {}

    def _sub_batches(self, count: int) -> Tensor:
        """Return the rows of every sub-batch of every partition, (partitions, S, size) int64.

        Rows that do not fill a sub-batch are left out of that partition.
        """
        size = self.whitening_size or count
        if size == count:
            return torch.arange(count)[None, None]
        used = count // size * size
        orders = [torch.randperm(count)[:used] for _ in range(self.partitions)]
        return torch.stack(orders).view(self.partitions, -1, size)


PART = WMSE
