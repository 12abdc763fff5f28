"""What was last seen of every training utterance: a memory that methods cluster (DeepCluster,
ProtoNCE).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from speechssl.distributed import gather_without_gradient
from speechssl.errors import UserError


class Memory(nn.Module):
    """Unit vectors (V, N, P), one for each of V views of each of N utterances; the same in every
    process.
    """

    def __init__(self, views: int, utterances: int, dim: int) -> None:
        super().__init__()
        self.values: Tensor
        self.seen: Tensor
        self.register_buffer("values", torch.zeros(views, utterances, dim))
        self.register_buffer("seen", torch.zeros(utterances, dtype=torch.bool))

    @torch.no_grad()
    def update(self, ids: Tensor | None, z: Tensor) -> Tensor:
        """Store z (V, B, P), normalised, of the utterances ids (B,); ids of all processes, joined.

        Raises:
            UserError: ids are not known (the loop hands them over; a program of one's own must,
                too).
        """
        if ids is None:
            raise UserError(
                "method: this method needs to know which utterances it sees; give Views ids"
            )
        everyone = gather_without_gradient(ids[None])[0]
        z = gather_without_gradient(torch.nn.functional.normalize(z.float(), dim=-1))
        self.values[:, everyone] = z[: len(self.values)]
        self.seen[everyone] = True
        return everyone
