"""Hugging Face: a folder to upload, with config.json, model.safetensors and a model card to complete.

`speechssl.load` reads it like any model folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

import speechssl
from speechssl import config, parts, weights
from speechssl.files import ModelFolder, write_text
from speechssl.model import Model
from speechssl.text import markdown

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

FOLDER is a copy of this one. `config.json` holds the settings of features and encoder,
`model.safetensors` the encoder's weights under SpeechBrain's names.
Compare embeddings by their cosine; subtract the mean over unlabelled speech of your own first.

## Training

{about}

## Limits

Embeddings tell voices apart, and carry emotion, language and recording channel too: do not take a score as
proof of identity, and measure on your own data before you rely on it.
"""


def write(model: Model, out: Path) -> Callable[[Tensor], Tensor]:
    """Write config.json, model.safetensors and README.md into OUT."""
    files = ModelFolder(out)
    weights.write(files.hub_weights, model.encoder.state_dict())
    about = config.thaw(model.about)
    settings = {
        "model_type": "speechssl",
        "speechssl": speechssl.__version__,
        **config.thaw(model.settings),
        "about": about,
    }
    write_text(files.hub_config, json.dumps(settings, indent=2) + "\n")
    card = _model_card(model, about, name=out.resolve().name)
    write_text(out / "README.md", card)
    return Model.load(out, allow_code=parts.outside_packages(model.settings))


def _model_card(model: Model, about: dict[str, Any], name: str) -> str:
    """Return README.md: what the model is, how it is used, how it was trained."""
    known = ""
    for key, value in about.items():
        known += f"* {markdown(str(key))}: {markdown(json.dumps(value, ensure_ascii=False))}\n"
    parameters = sum(parameter.numel() for parameter in model.encoder.parameters())
    return _CARD.format(
        name=markdown(name),
        encoder=markdown(model.settings["encoder"]["name"]),
        rate=model.sample_rate,
        dim=model.dim,
        parameters=parameters / 1e6,
        version=speechssl.__version__,
        about=known.rstrip() or "Nothing is known about it.",
    )


PART = write
