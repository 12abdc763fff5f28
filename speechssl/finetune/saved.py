"""A classifier in a folder: what `finetune` has learnt, to predict labels of new recordings.

The folder is a model folder (``config.yaml``, ``weights.safetensors``: the encoder as it was
fine-tuned, which `speechssl embed` reads, too) with the classifier beside it:
``classifier.safetensors`` (mean, scale and linear layer) and ``classifier.json`` (the names of the
classes, in the order of the outputs, and how it was trained and measured).

It may be somebody else's: sizes are compared with the header before anything is read, and names
are text.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from speechssl import foreign_json, weights
from speechssl.errors import UserError, writing
from speechssl.files import write_text
from speechssl.finetune.classifier import Classifier
from speechssl.model import Model

WEIGHTS = "classifier.safetensors"
ABOUT = "classifier.json"

_TENSORS = ("mean", "scale", "output.weight", "output.bias")
_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_MOST_CLASSES = 100_000
_LONGEST_LABEL = 200


@dataclass(frozen=True)
class SavedClassifier:
    """A classifier and its model.

    Attributes:
        model: waveforms to embeddings.
        classifier: embeddings to logits.
        labels: names of the C classes, in the order of the logits.
        about: how it was trained and measured.
    """

    model: Model
    classifier: Classifier
    labels: Sequence[str]
    about: Mapping[str, Any]

    def probabilities(self, embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the probabilities (B, C) of the classes for embeddings (B, D)."""
        device = self.classifier.output.weight.device
        with torch.no_grad():
            logits = self.classifier.logits(torch.from_numpy(embeddings).to(device))
            found: NDArray[np.float64] = logits.double().softmax(1).cpu().numpy()
        return found

    def save(self, folder: Path) -> None:
        """Write the folder, the list of classes last.

        A folder without that list is refused. So a writer that is killed leaves no readable mixture
        of old and new files.
        """
        state = self.classifier.state_dict()
        with writing(folder):
            (folder / ABOUT).unlink(missing_ok=True)
            self.model.save(folder)
            weights.write(folder / WEIGHTS, {name: state[name].cpu() for name in _TENSORS})
            written = {"format": 1, "labels": list(self.labels), **self.about}
            write_text(folder / ABOUT, json.dumps(written, indent=2) + "\n")


def load(folder: str | Path, *, allow_code: Collection[str] = ()) -> SavedClassifier:
    """Read the classifier in a folder.

    Args:
        folder: what `speechssl finetune --save` wrote.
        allow_code: packages outside this one whose parts the model may name.

    Raises:
        UserError: there is none, it is damaged, or its parts do not fit each other.
    """
    folder = Path(folder)
    if not (folder / ABOUT).is_file():
        raise UserError(
            f"{folder}: holds no {ABOUT}; give a folder that `speechssl finetune --save` wrote"
        )
    about = foreign_json.read(folder / ABOUT)
    with foreign_json.damage(folder / ABOUT, "fine-tune again"):
        labels = _checked_labels(about["labels"])
    model = Model.load(folder, allow_code=allow_code)
    expected = {
        "mean": (model.dim,),
        "scale": (model.dim,),
        "output.weight": (len(labels), model.dim),
        "output.bias": (len(labels),),
    }
    held = weights.shapes(folder / WEIGHTS)
    if held != expected:
        name = next(key for key in (*expected, *held) if held.get(key) != expected.get(key))
        raise UserError(
            f"{folder / WEIGHTS}: {name[:80]} is {held.get(name, 'absent')}, and"
            f" {expected.get(name, 'absent')} by the model and the labels; fine-tune again"
        )
    state = weights.read(folder / WEIGHTS)
    for name, tensor in state.items():
        if tensor.dtype not in _TYPES or not tensor.isfinite().all():
            raise UserError(
                f"{folder / WEIGHTS}: {name} ({tensor.dtype}) holds NaN or infinity, or is of no type"
                " that a classifier has; fine-tune again"
            )
    classifier = Classifier(model.encoder, torch.zeros(1, model.dim), len(labels))
    classifier.load_state_dict({name: state[name].float() for name in _TENSORS}, strict=False)
    rest = {key: value for key, value in about.items() if key not in ("format", "labels")}
    return SavedClassifier(model, classifier.eval(), labels, rest)


def _checked_labels(labels: Any) -> list[str]:
    """Return the names of classes; raise ValueError or TypeError if they are none."""
    if not isinstance(labels, list) or not 1 <= len(labels) <= _MOST_CLASSES:
        raise ValueError("labels is no list of names")
    for label in labels:
        if not isinstance(label, str) or not 1 <= len(label) <= _LONGEST_LABEL:
            raise ValueError(f"label {str(label)[:40]!r}")
    if len(set(labels)) < len(labels):
        raise ValueError("a label occurs twice")
    return labels
