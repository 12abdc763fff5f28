"""SpeechBrain: a folder for `speechbrain.inference.EncoderClassifier.from_hparams(source="OUT")`.

The encoder becomes SpeechBrain's own ECAPA_TDNN or ResNet with our weights, so that it can be
fine-tuned there. SpeechBrain's Fbank cannot express our log-mels (centred frames, decibels, other
filters), so they and their normalisation go along as TorchScript. Loading the folder needs no part
of this package.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speechssl.errors import UserError
from speechssl.exporters.torchscript import trace
from speechssl.exporters.waveforms import Spectra, example
from speechssl.features.logmel import LogMel
from speechssl.files import atomic_write, write_text
from speechssl.model import Model

_HYPERPARAMS = """\
# EncoderClassifier.from_hparams(source={out})
# Path of this folder, or its name on a model hub: change it when the folder moves, or give
# overrides={{"pretrained_path": ...}}
pretrained_path: {out}
sample_rate: {rate}
features_file: !apply:speechbrain.utils.fetching.fetch
    filename: features.pt
    source: !ref <pretrained_path>
normalise_file: !apply:speechbrain.utils.fetching.fetch
    filename: normalise.pt
    source: !ref <pretrained_path>
compute_features: !apply:torch.jit.load
    f: !ref <features_file>
mean_var_norm: !apply:torch.jit.load
    f: !ref <normalise_file>
embedding_model: !new:{lobe}
{settings}
classifier: !new:torch.nn.Identity
modules:
    compute_features: !ref <compute_features>
    mean_var_norm: !ref <mean_var_norm>
    embedding_model: !ref <embedding_model>
    classifier: !ref <classifier>
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        embedding_model: !ref <embedding_model>
    paths:
        embedding_model: !ref <pretrained_path>/embedding_model.ckpt
"""


class Normalise(nn.Module):
    """Features (B, F, M) and relative lengths (B,) to normalised features (B, F, M)."""

    def __init__(self, features: LogMel) -> None:
        super().__init__()
        self.features = features

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Normalise over the valid frames: a share ``lengths`` of all frames."""
        valid = (lengths * features.shape[1]).round().long().clamp(min=1)
        return self.features.normalised(features, valid)


def write(model: Model, out: Path) -> Callable[[Tensor], Tensor]:
    """Write hyperparams.yaml, embedding_model.ckpt, features.pt and normalise.pt into OUT.

    Raises:
        UserError: SpeechBrain has no counterpart of the encoder, or takes another front end.
    """
    front_end = model.front_end
    if not isinstance(front_end, LogMel):
        name = model.settings["features"]["name"]
        raise UserError(
            f"export: SpeechBrain takes log-mels and not the front end {name!r}; export to"
            " torchscript or onnx"
        )
    lobe, settings = _counterpart(model.settings["encoder"], front_end.dim)
    waves = example(model, 2.0)
    spectra = Spectra(front_end).eval()
    relative_lengths = torch.tensor([1.0, 0.6])
    normalise = trace(Normalise(front_end), spectra(waves), relative_lengths)
    with atomic_write(out / "features.pt") as temporary:
        trace(spectra, waves).save(str(temporary))
    with atomic_write(out / "normalise.pt") as temporary:
        normalise.save(str(temporary))
    with atomic_write(out / "embedding_model.ckpt") as temporary:
        torch.save(model.encoder.state_dict(), temporary)
    lines = "\n".join(f"    {name}: {value}" for name, value in settings.items())
    quoted = json.dumps(str(out.resolve()), ensure_ascii=False)  # as YAML quotes it, too
    text = _HYPERPARAMS.format(out=quoted, rate=model.sample_rate, lobe=lobe, settings=lines)
    write_text(out / "hyperparams.yaml", text)
    return _load(out)


def _load(out: Path) -> Callable[[Tensor], Tensor]:
    """Return a function that embeds with SpeechBrain what was written."""
    from speechbrain.inference.classifiers import EncoderClassifier

    classifier = EncoderClassifier.from_hparams(source=str(out), savedir=str(out))

    def run(waves: Tensor) -> Tensor:
        embeddings: Tensor = classifier.encode_batch(waves)  # (B, 1, D)
        return embeddings.flatten(1)

    return run


def _counterpart(encoder: Mapping[str, Any], mels: int) -> tuple[str, dict[str, Any]]:
    """Return SpeechBrain's class for an encoder, and its arguments.

    Raises:
        UserError: SpeechBrain has no such class.
    """
    is_attentive = encoder.get("pooling") == "attentive"
    own = ("embedding_norm", "early_statistics", "band_shift")
    is_plain = not any(encoder.get(option) for option in own)
    is_theirs = encoder.get("padding") == "reflect" and encoder.get("mfa_norm") is True
    if encoder["name"] == "ecapa" and is_attentive and is_plain and is_theirs:
        return "speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN", _ecapa(encoder, mels)
    if encoder["name"] == "resnet" and _is_speechbrain_resnet(encoder):
        return "speechbrain.lobes.models.ResNet.ResNet", _resnet(encoder, mels)
    raise UserError(
        f"export: SpeechBrain has no counterpart of this {encoder['name']} (it has ecapa"
        " without embedding_norm, early_statistics and band_shift, and pre-activated resnet with 2 stages of"
        " gates, both with attentive pooling); export to torchscript or onnx"
    )


def _ecapa(encoder: Mapping[str, Any], mels: int) -> dict[str, Any]:
    """Return the arguments of SpeechBrain's ECAPA_TDNN."""
    width = encoder["width"]
    blocks = len(encoder["kernel_sizes"])
    last_width = encoder["mfa_channels"] or 3 * width
    return {
        "input_size": mels,
        "channels": [width] * (blocks - 1) + [last_width],
        "kernel_sizes": list(encoder["kernel_sizes"]),
        "dilations": list(encoder["dilations"]),
        "attention_channels": encoder["attention_channels"],
        "res2net_scale": encoder["scale"],
        "se_channels": encoder["se_channels"],
        "global_context": encoder["global_context"],
        "groups": [1] * blocks,
        "lin_neurons": encoder["embedding_dim"],
    }


def _is_speechbrain_resnet(encoder: Mapping[str, Any]) -> bool:
    """True if the settings that SpeechBrain's ResNet fixes have its values."""
    fixed = {
        "block_type": "preactivated",
        "se_stages": 2,
        "pooling": "attentive",
        "attention_channels": 128,
        "pooled_norm": True,
        "embedding_norm": True,
    }
    return all(encoder[key] == value for key, value in fixed.items())


def _resnet(encoder: Mapping[str, Any], mels: int) -> dict[str, Any]:
    """Return the arguments of SpeechBrain's ResNet."""
    width = encoder["width"]
    return {
        "input_size": mels,
        "channels": list(encoder["channels"] or [width, 2 * width, 4 * width, 8 * width]),
        "block_sizes": list(encoder["blocks"]),
        "lin_neurons": encoder["embedding_dim"],
    }


PART = write
