"""Hugging Face: a folder to upload, with config.json, model.safetensors and a model card to complete.

`speechssl.load` reads it like any model folder; `speechssl push` writes and uploads it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from speechssl import parts
from speechssl.embed.hub import write_folder
from speechssl.model import Model


def write(model: Model, out: Path) -> Callable[[Tensor], Tensor]:
    """Write config.json, model.safetensors and README.md into OUT."""
    write_folder(model, out)
    return Model.load(out, allow_code=parts.outside_packages(model.settings))


PART = write
