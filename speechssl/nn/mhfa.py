"""Multi-head factorised attentive pooling over the layers of a transformer (MHFA).

Peng et al. 2022, "An attention-based backend allowing efficient fine-tuning of transformer models for
speaker verification" (SLT), equations 1 to 5. With Z_l (T, F) the output of layer l of 0..L,

    K = (sum_l softmax(w^k)_l Z_l) S^k,   V = (sum_l softmax(w^v)_l Z_l) S^v,    both (T, C)
    A = softmax over the frames of K Q,                                          (T, H)
    c_h = sum_t A[t, h] V[t],   the pooled vector is [c_1, ..., c_H],            H C numbers

and a linear layer makes the embedding of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from speechssl.nn.frames import Frames


def weighted_layers(layers: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Return the sum (B, F, M) of layers, each (B, F, M), by the softmax of weights (L,)."""
    shares = weights.softmax(0)
    total = shares[0] * layers[0]
    for share, layer in zip(shares[1:], layers[1:], strict=True):
        total = total + share * layer
    return total


class MHFA(nn.Module):
    """Layers of frames to one pooled vector of `heads` x `compression_dim` numbers.

    Args:
        layer_count: L + 1, layers with the input of the first one.
        input_dim: F, channels of a layer.
        heads: H.
        compression_dim: C, channels of keys and values.
    """

    def __init__(self, layer_count: int, input_dim: int, heads: int, compression_dim: int) -> None:
        super().__init__()
        self.output_dim = heads * compression_dim
        self.weights_k = nn.Parameter(torch.zeros(layer_count))
        self.weights_v = nn.Parameter(torch.zeros(layer_count))
        self.cmp_linear_k = nn.Linear(input_dim, compression_dim)
        self.cmp_linear_v = nn.Linear(input_dim, compression_dim)
        self.att_head = nn.Linear(compression_dim, heads)

    def forward(self, layers: Sequence[Tensor], frames: Frames) -> Tensor:
        """Return pooled vectors (B, H C).

        Args:
            layers: L + 1 outputs (B, T, F).
            frames: which frames count.
        """
        keys = self.cmp_linear_k(weighted_layers(layers, self.weights_k))
        values = self.cmp_linear_v(weighted_layers(layers, self.weights_v))
        scores = self.att_head(keys).float()
        if frames.mask is not None:
            scores = scores.masked_fill(~frames.mask[:, :, None], float("-inf"))
        attention = scores.softmax(1)
        pooled = torch.einsum("bth,btc->bhc", attention, values.float())
        return pooled.flatten(1)
