"""SpeechBrain: a folder for `speechbrain.inference.EncoderClassifier.from_hparams(source="OUT")`.

The encoder becomes SpeechBrain's own ECAPA_TDNN or ResNet with our weights, so that it can be
fine-tuned there. SpeechBrain's Fbank cannot express our log-mels (centred frames, decibels, other
filters), so that they and their normalisation go along as TorchScript, and no part of this package
is needed to load the folder.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speechssl.errors import UserError
from speechssl.exporters.torchscript import traced
from speechssl.exporters.waveforms import Spectra, compare, example
from speechssl.features.logmel import LogMel
from speechssl.model import Model

_HYPERPARAMS = """\
# EncoderClassifier.from_hparams(source="{out}")
# Where this folder lies, a path or a model hub's name: change it when the folder moves, or give
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


class _Normalise(nn.Module):
    """Features (B, F, M) and relative lengths (B,) to normalised features."""

    def __init__(self, features: LogMel) -> None:
        super().__init__()
        self.features = features

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        valid = (lengths * features.shape[1]).round().long().clamp(min=1)
        return self.features.normalised(features, valid)


def write(model: Model, out: Path) -> None:
    """Write hyperparams.yaml, embedding_model.ckpt, features.pt and normalise.pt into OUT.

    Raises UserError if SpeechBrain has no counterpart of the encoder or takes another front end.
    """
    front_end = model.front_end
    if not isinstance(front_end, LogMel):
        name = model.settings["features"]["name"]
        raise UserError(
            f"export: SpeechBrain takes log-mels and not the front end {name!r}; export to"
            " torchscript or onnx"
        )
    lobe, settings = _lobe(model.settings["encoder"], front_end.dim)
    waves = example(model, 2.0)
    spectra = Spectra(front_end).eval()
    traced(spectra, waves).save(str(out / "features.pt"))
    normalise = traced(_Normalise(front_end), spectra(waves), torch.tensor([1.0, 0.6]))
    normalise.save(str(out / "normalise.pt"))
    torch.save(model.encoder.state_dict(), out / "embedding_model.ckpt")
    lines = "\n".join(f"    {name}: {value}" for name, value in settings.items())
    text = _HYPERPARAMS.format(out=out.resolve(), rate=model.sample_rate, lobe=lobe, settings=lines)
    (out / "hyperparams.yaml").write_text(text, encoding="utf-8")
    from speechbrain.inference.classifiers import EncoderClassifier

    loaded = EncoderClassifier.from_hparams(source=str(out), savedir=str(out))
    print(compare(model, lambda x: loaded.encode_batch(x).flatten(1), str(out)), file=sys.stderr)


def _lobe(encoder: Mapping[str, Any], mels: int) -> tuple[str, dict[str, Any]]:
    """SpeechBrain's class for an encoder, and its arguments; UserError if there is none."""
    if encoder["name"] == "ecapa" and encoder["pooling"] == "attentive":
        width, mfa = encoder["width"], encoder["mfa_channels"] or 3 * encoder["width"]
        return "speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN", {
            "input_size": mels,
            "channels": [width] * (len(encoder["kernel_sizes"]) - 1) + [mfa],
            "kernel_sizes": list(encoder["kernel_sizes"]),
            "dilations": list(encoder["dilations"]),
            "attention_channels": encoder["attention_channels"],
            "res2net_scale": encoder["scale"],
            "se_channels": encoder["se_channels"],
            "global_context": encoder["global_context"],
            "groups": [1] * len(encoder["kernel_sizes"]),
            "lin_neurons": encoder["embedding_dim"],
        }
    fixed = {
        "block_type": "preactivated",
        "se_stages": 2,
        "pooling": "attentive",
        "attention_channels": 128,
    }
    if encoder["name"] == "resnet" and all(encoder[key] == value for key, value in fixed.items()):
        width = encoder["width"]
        return "speechbrain.lobes.models.ResNet.ResNet", {
            "input_size": mels,
            "channels": list(encoder["channels"] or [width, 2 * width, 4 * width, 8 * width]),
            "block_sizes": list(encoder["blocks"]),
            "lin_neurons": encoder["embedding_dim"],
        }
    raise UserError(
        f"export: SpeechBrain has no counterpart of this {encoder['name']} (it has ecapa and"
        " pre-activated resnet with 2 stages of gates, both with attentive pooling); export to"
        " torchscript or onnx"
    )


PART = write
