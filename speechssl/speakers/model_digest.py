"""A digest of a model, by which voices and calibrations are tied to the weights they were made with."""

from __future__ import annotations

import hashlib
import json

import torch

from speechssl.model import Model


def digest(model: Model, layer: str = "embedding") -> str:
    """Return a hash of settings, weights and layer: 16 hexadecimal digits."""
    hashed = hashlib.sha256(json.dumps([model.settings, layer], sort_keys=True).encode())
    for name, tensor in model.encoder.state_dict().items():
        hashed.update(name.encode())
        as_bytes = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        hashed.update(as_bytes.numpy().tobytes())
    return hashed.hexdigest()[:16]
