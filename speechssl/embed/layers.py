"""Which layer an embedding is taken from: a block, pooled over frames, the pooling, or an affine
    layer.

| name                        | what                                                                        |
|-----------------------------|-----------------------------------------------------------------------------|
| `features`                  | mean and deviation over frames of the log-mels that the encoder hears       |
| of `encoder.frame_layers()` | the same statistics of what that block or stage gives                       |
| `pooled`                    | the encoder's own pooling, before the affine layers                         |
| of `encoder.affine_layers()`| after that layer; the last one is the embedding                             |
| `embedding`                 | what the encoder gives (the default)                                        |

Statistics are over an utterance's valid frames: a padded batch gives what the utterance gives
alone. Blocks with frequencies give a mean and a deviation for each channel and band, as the
encoder's own pooling does.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from speechssl.errors import UserError
from speechssl.interfaces import Encoder
from speechssl.nn.frames import Frames
from speechssl.nn.pooling import statistics

EMBEDDING, FEATURES, POOLED = "embedding", "features", "pooled"


def layer_names(encoder: Encoder) -> list[str]:
    """Names of the layers of an encoder, from the first to the embedding."""
    affine = list(encoder.affine_layers())
    pooled = [POOLED] if affine else []
    return [FEATURES, *encoder.frame_layers(), *pooled, *affine[:-1], EMBEDDING]


def encode_layer(encoder: Encoder, features: Tensor, lengths: Tensor | None, layer: str) -> Tensor:
    """(B, D) float32 of a layer, for `features` (B, F, M) of which `lengths` (B,) frames are valid.

    Raises:
        UserError: the encoder has no such layer; the message names those that it has.
    """
    if layer == EMBEDDING:
        return encoder(features, lengths).float()
    known = layer_names(encoder)
    if layer not in known:
        raise UserError(f"embed: no layer {layer!r} in this encoder; it has {', '.join(known)}")
    if layer == FEATURES:
        return statistics(features, Frames.of(features, lengths))
    found: list[Tensor] = []
    blocks = encoder.frame_layers()
    if layer == POOLED:
        first = next(iter(encoder.affine_layers().values()))
        hook = first.register_forward_pre_hook(lambda _module, inputs: found.append(inputs[0]))
    elif layer in blocks:
        hook = blocks[layer].register_forward_hook(
            lambda _module, inputs, output: found.append(_over_frames(inputs, output))
        )
    else:
        hook = encoder.affine_layers()[layer].register_forward_hook(
            lambda _m, _i, output: found.append(output)
        )
    try:
        encoder(features, lengths)
    finally:
        hook.remove()
    return found[0].float()


def _over_frames(inputs: tuple[Any, ...], output: Any) -> Tensor:
    """Statistics (B, 2C) of what a block called with (x, frames) gives: x, or x and its new
    frames.
    """
    x, frames = output if isinstance(output, tuple) else (output, inputs[1])
    if x.dim() == 4:  # (B, F, M, C): channels before frequencies, as the encoder pools them
        x = x.transpose(2, 3).flatten(2)
    return statistics(x, frames)
