"""Hugging Face: a folder to upload, with config.json, model.safetensors and a model card to complete.

`speechssl.load` reads it like any model folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import speechssl
from speechssl import config
from speechssl.files import atomic_write, write_text
from speechssl.model import HUB_CONFIG, HUB_WEIGHTS, Model

_CARD = """\
---
library_name: speechssl
license: other  # TODO: the licence of these weights; mind the licence of the training data
tags:
- speaker-verification
- self-supervised
- audio-embeddings
pipeline_tag: feature-extraction
---

# {name}

{encoder} encoder for {rate} Hz speech, {parameters:.1f} M parameters, embeddings of {dim} numbers.
Trained with speechssl {version}.

## Use

```bash
speechssl embed FOLDER a.wav b.flac --out embeddings.npz
```

```python
import speechssl

embedder = speechssl.load("FOLDER")
vector = embedder.embed("a.wav")
```

FOLDER is a copy of this one. `config.json` holds the settings of features and encoder, `{weights}` the
encoder's weights under SpeechBrain's names. Compare embeddings by their cosine; subtract the mean over
unlabelled speech of your own first.

## Training

{about}

## Limits

Embeddings tell voices apart, and carry emotion, language and recording channel too: do not take a score as
proof of identity, and measure on your own data before you rely on it.
"""


def write(model: Model, out: Path) -> Callable[[Tensor], Tensor]:
    """Write config.json, model.safetensors (pytorch_model.bin without safetensors) and README.md
    into OUT.
    """
    weights = _save_weights(model, out)
    about = config.thaw(model.about)
    settings = {
        "model_type": "speechssl",
        "speechssl": speechssl.__version__,
        **config.thaw(model.settings),
        "about": about,
    }
    write_text(out / HUB_CONFIG, json.dumps(settings, indent=2) + "\n")
    card = _model_card(model, about, name=out.resolve().name, weights=weights)
    write_text(out / "README.md", card)
    return Model.load(out)


def _save_weights(model: Model, out: Path) -> str:
    """Save the encoder's weights; return the file's name."""
    state = {name: value.contiguous().clone() for name, value in model.encoder.state_dict().items()}
    name, name_without_safetensors = HUB_WEIGHTS
    try:
        from safetensors.torch import save_file
    except ImportError:
        with atomic_write(out / name_without_safetensors) as temporary:
            torch.save(state, temporary)
        return name_without_safetensors
    with atomic_write(out / name) as temporary:
        save_file(state, str(temporary), metadata={"format": "pt"})
    return name


def _model_card(model: Model, about: dict[str, Any], name: str, weights: str) -> str:
    """Return README.md: what the model is, how it is used, how it was trained."""
    known = "\n".join(f"* {key}: {json.dumps(value)}" for key, value in about.items())
    parameters = sum(parameter.numel() for parameter in model.encoder.parameters())
    return _CARD.format(
        name=name,
        encoder=model.settings["encoder"]["name"],
        rate=model.sample_rate,
        dim=model.dim,
        parameters=parameters / 1e6,
        version=speechssl.__version__,
        weights=weights,
        about=known or "Nothing is known about it.",
    )


PART = write
