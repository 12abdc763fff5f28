"""Features and encoder as one module, and the folder that holds a trained one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import speechssl
from speechssl import config, parts
from speechssl.errors import UserError
from speechssl.features.logmel import LogMel
from speechssl.interfaces import Encoder

CONFIG, WEIGHTS = "config.yaml", "weights.pt"
LAST = "last.pt"
"""In a run folder: the state of every network, and all else that resuming needs."""
HUB_CONFIG, HUB_WEIGHTS = "config.json", ("model.safetensors", "pytorch_model.bin")
"""The same in a folder for Hugging Face's hub (`speechssl export --to huggingface`)."""


def load_state(path: Path) -> dict[str, Any]:
    """A saved state on the CPU.

    Raises:
        UserError: the file is damaged.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)  # type: ignore[no-any-return]
    except Exception as error:
        raise UserError(
            f"checkpoint: {path} cannot be read ({_reason(error)}); delete it or give another"
        ) from error


def _reason(error: Exception) -> str:
    """The first sentence of what pickle, zip or torch find wrong with a file; its type if it says
    nothing.
    """
    return (str(error).splitlines() or [""])[0].partition(". ")[0] or type(error).__name__


class Model(nn.Module):
    """Waveforms to embeddings.

    Args:
        features: section ``features`` of a configuration (settings of ``LogMel``).
        encoder: section ``encoder`` (``name`` and the settings of that encoder).
        about: what else is known of the weights (method, step, data, commit), kept with them.
    """

    def __init__(
        self,
        features: Mapping[str, Any],
        encoder: Mapping[str, Any],
        about: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.settings = {
            "features": config.check(LogMel, features, "features"),
            "encoder": parts.check("encoders", encoder, "encoder"),
        }
        self.about = dict(about or {})
        self.features = LogMel(**self.settings["features"])
        self.encoder: Encoder = parts.build(
            "encoders", self.settings["encoder"], self.settings["features"]["mels"]
        )

    @property
    def rate(self) -> int:
        """Sampling rate of the waveforms it takes, Hz."""
        return int(self.settings["features"]["rate"])

    @property
    def dim(self) -> int:
        """Size of an embedding."""
        return int(self.encoder.embedding_dim)  # type: ignore[arg-type]

    def forward(self, waves: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Embeddings (B, D) of waveforms (B, T) at ``rate``; ``lengths`` (B,) in samples, or all
        full.
        """
        features, frames = self.features(waves, lengths)
        return self.encoder(features, frames)

    def save(self, folder: str | Path) -> None:
        """Write ``config.yaml`` and ``weights.pt`` into ``folder``, each through a temporary
        file.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{WEIGHTS}.tmp"
        torch.save(self.encoder.state_dict(), temporary)
        os.replace(temporary, folder / WEIGHTS)
        written = {"speechssl": speechssl.__version__, **self.settings, "about": self.about}
        config.write(written, folder / f".{CONFIG}.tmp")
        os.replace(folder / f".{CONFIG}.tmp", folder / CONFIG)

    @classmethod
    def load(cls, folder: str | Path) -> Model:
        """The model in ``folder``: a model folder (also one for the hub), or a run folder (its
            ``model/``).

        Raises:
            UserError: there is no model, or its weights do not fit its configuration.
        """
        folder = Path(folder)
        if not (folder / WEIGHTS).is_file() and (folder / "model" / WEIGHTS).is_file():
            folder = folder / "model"
        settings, weights = _files(folder)
        if not weights.is_file() or not settings.is_file():
            raise UserError(
                f"model: {folder} holds no {CONFIG} and {WEIGHTS}; give a run folder of 'speechssl"
                " train' whose training has saved a model, or a model folder"
            )
        written = config.read(settings)
        model = cls(written.get("features", {}), written.get("encoder", {}), written.get("about"))
        try:
            model.encoder.load_state_dict(_read(weights))
        except Exception as error:  # whatever pickle, zip or torch find wrong with it
            raise UserError(
                f"model: {weights} cannot be loaded ({_reason(error)}); save it again"
            ) from error
        return model.eval()


def _files(folder: Path) -> tuple[Path, Path]:
    """Configuration and weights in a model folder, the hub's where ours are not there."""
    hub = [folder / name for name in HUB_WEIGHTS if (folder / name).is_file()]
    if hub and not (folder / WEIGHTS).is_file():
        return folder / HUB_CONFIG, hub[0]
    return folder / CONFIG, folder / WEIGHTS


def _read(weights: Path) -> Mapping[str, Tensor]:
    if weights.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(str(weights))
    state: Mapping[str, Tensor] = torch.load(weights, map_location="cpu", weights_only=True)
    return state
