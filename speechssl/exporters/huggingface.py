"""Hugging Face: a folder to upload: config.json, model.safetensors, and a model card to complete.

`speechssl.load` reads it as it reads any model folder.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

import speechssl
from speechssl import config
from speechssl.exporters.waveforms import compare
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


def write(model: Model, out: Path) -> None:
    """Write config.json, model.safetensors (pytorch_model.bin without safetensors) and README.md
    into OUT.
    """
    state = {name: value.contiguous().clone() for name, value in model.encoder.state_dict().items()}
    weights = HUB_WEIGHTS[0]
    try:
        from safetensors.torch import save_file

        save_file(state, str(out / weights), metadata={"format": "pt"})
    except ImportError:
        weights = HUB_WEIGHTS[1]
        torch.save(state, out / weights)
    about: dict[str, Any] = {"model_type": "speechssl", "speechssl": speechssl.__version__}
    about |= config.thaw(model.settings) | {"about": config.thaw(model.about)}
    (out / HUB_CONFIG).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    known = "\n".join(f"* {key}: {json.dumps(value)}" for key, value in about["about"].items())
    card = _CARD.format(
        name=out.resolve().name,
        encoder=model.settings["encoder"]["name"],
        rate=model.sample_rate,
        dim=model.dim,
        parameters=sum(p.numel() for p in model.encoder.parameters()) / 1e6,
        version=speechssl.__version__,
        weights=weights,
        about=known or "Nothing is known of it.",
    )
    (out / "README.md").write_text(card, encoding="utf-8")
    print(compare(model, Model.load(out), str(out)), file=sys.stderr)


PART = write
