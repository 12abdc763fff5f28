"""A linear classifier on top of an encoder."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from speechssl.interfaces import Encoder


def apply_affine_layers(encoder: Encoder, pooled: Tensor) -> Tensor:
    """Return the embeddings (B, D) of the encoder's pooled statistics (B, P)."""
    for layer in encoder.affine_layers().values():
        pooled = layer(pooled)
    return pooled


class Classifier(nn.Module):
    """An encoder with a linear layer on its standardised embedding.

    Args:
        encoder: with layers after pooling.
        embeddings: (N, D) of the training utterances; they give the mean and the scale.
        classes: number of classes, C.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, encoder: Encoder, embeddings: Tensor, classes: int) -> None:
        super().__init__()
        deviation = embeddings.std(0, correction=0).clamp(min=1e-5)
        self.encoder = encoder
        self.register_buffer("mean", embeddings.mean(0))
        self.register_buffer("scale", 1 / deviation)
        self.output = nn.Linear(embeddings.shape[1], classes)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def affine_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the layers after pooling and of the linear layer."""
        layers = [*self.encoder.affine_layers().values(), self.output]
        return [parameter for layer in layers for parameter in layer.parameters()]

    def logits(self, embeddings: Tensor) -> Tensor:
        """Return logits (B, C) of embeddings (B, D)."""
        standardised = (embeddings.float() - self.mean) * self.scale
        return cast(Tensor, self.output(standardised))

    def forward_pooled(self, pooled: Tensor) -> Tensor:
        """Return logits (B, C) of the encoder's pooled statistics (B, P)."""
        return self.logits(apply_affine_layers(self.encoder, pooled))
