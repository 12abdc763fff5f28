"""Which layer an embedding is taken from: a block before pooling, the pooling, or one after it.

| name                         | what                                                 |
|------------------------------|------------------------------------------------------|
| `features`                   | mean and standard deviation over frames of the features |
| of `encoder.frame_layers()`  | the same statistics of the output of that block or stage |
| `pooled`                     | the encoder's own pooling, before the affine layers  |
| of `encoder.affine_layers()` | the output of that layer; the last one gives the embedding |
| `embedding`                  | the output of the encoder (the default)              |

Statistics are over an utterance's valid frames, so a padded batch gives what each
utterance gives alone. Blocks with a frequency axis give a mean and a deviation for each
channel and band, as the encoder's own pooling does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

from speechssl.errors import UserError
from speechssl.interfaces import Encoder
from speechssl.nn.frames import Frames
from speechssl.nn.pooling import statistics

EMBEDDING = "embedding"
FEATURES = "features"
POOLED = "pooled"


def layer_names(encoder: Encoder) -> list[str]:
    """Return the names of the layers of an encoder, from the features to the embedding."""
    names = [FEATURES, *encoder.frame_layers()]
    affine = list(encoder.affine_layers())
    if affine:
        names += [POOLED, *affine[:-1]]
    return [*names, EMBEDDING]


def encode_layer(encoder: Encoder, features: Tensor, lengths: Tensor | None, layer: str) -> Tensor:
    """Return the output of a layer, (B, D) float32.

    Args:
        encoder: it is run up to its end.
        features: (B, F, M).
        lengths: (B,) frames that count in each row; None: all F.
        layer: one of `layer_names`.

    Raises:
        UserError: the encoder has no such layer; the message names those that it has.
    """
    known = layer_names(encoder)
    if layer not in known:
        raise UserError(f"embed: no layer {layer!r} in this encoder; it has {', '.join(known)}")

    def run() -> Tensor:
        embedding: Tensor = encoder(features, lengths)
        return embedding

    if layer == EMBEDDING:
        output = run()
    elif layer == FEATURES:
        output = statistics(features, Frames.of(features, lengths))
    elif layer == POOLED:
        first = next(iter(encoder.affine_layers().values()))
        output = _call_of(first, run).inputs[0]
    elif layer in encoder.frame_layers():
        output = _pooled(_call_of(encoder.frame_layers()[layer], run))
    else:
        output = _call_of(encoder.affine_layers()[layer], run).output
    return output.float()


class _Call(NamedTuple):
    """What a module was called with, and what it returned."""

    inputs: tuple[Any, ...]
    output: Any


def _call_of(module: nn.Module, run: Callable[[], Tensor]) -> _Call:
    """Return the call of a module while `run` runs the encoder around it."""
    calls: list[_Call] = []

    def keep(_module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        calls.append(_Call(inputs, output))

    hook = module.register_forward_hook(keep)
    try:
        run()
    finally:
        hook.remove()
    return calls[0]


def _pooled(call: _Call) -> Tensor:
    """Return mean and deviation over frames, (B, 2C), of the output of a block.

    A block is called with (x, frames) and returns x, or x and its new frames.
    """
    if isinstance(call.output, tuple):
        x, frames = call.output
    else:
        x = call.output
        frames = call.inputs[1]
    if x.dim() == 4:  # (B, F, M, C): channels before frequencies, as the encoder pools them
        x = x.transpose(2, 3).flatten(2)
    return statistics(x, frames)
