"""A memory of the last projection of every training utterance, for methods that cluster."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechssl.distributed import gather_without_gradient
from speechssl.errors import UserError

__all__ = ["Memory"]


class Memory(nn.Module):
    """The last projection of each view of each training utterance; the same in every process.

    Args:
        views: V.
        utterances: N, size of the training set.
        dim: P, size of a projection.

    Attributes:
        values: (V, N, P) unit vectors; zeros until an utterance has been seen.
        seen: (N,) bool.
    """

    def __init__(self, views: int, utterances: int, dim: int) -> None:
        super().__init__()
        self.values: Tensor
        self.seen: Tensor
        self.register_buffer("values", torch.zeros(views, utterances, dim))
        self.register_buffer("seen", torch.zeros(utterances, dtype=torch.bool))

    @torch.no_grad()
    def update(self, ids: Tensor | None, z: Tensor) -> Tensor:
        """Store the normalised projections of a batch, gathered from all processes.

        Args:
            ids: (B,) int64, index of each utterance in the training set (`Views.ids`).
            z: (V or more, B, P); the first V views are stored.

        Returns:
            The indices of all processes' utterances, joined.

        Raises:
            UserError: `ids` is None. The training loop passes them; a program of one's
                own must, too.
        """
        if ids is None:
            raise UserError(
                "method: this method needs to know which utterances a batch holds; set Views.ids"
            )
        all_ids = gather_without_gradient(ids[None])[0]
        all_z = gather_without_gradient(F.normalize(z.float(), dim=-1))
        self.values[:, all_ids] = all_z[: len(self.values)]
        self.seen.index_fill_(0, all_ids, True)
        return all_ids
