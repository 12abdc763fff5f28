"""Front end and encoder as one module, and the folder that holds a trained one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import speechssl
from speechssl import config, parts
from speechssl.errors import UserError
from speechssl.features import with_default_name
from speechssl.files import ModelFolder, atomic_write, model_folder
from speechssl.interfaces import Encoder, FrontEnd

CONFIG, WEIGHTS = "config.yaml", "weights.pt"
LAST = "last.pt"
"""In a run folder: the state of every network, and all else that resuming needs."""
HUB_CONFIG, HUB_WEIGHTS = "config.json", ("model.safetensors", "pytorch_model.bin")
"""The same in a folder for Hugging Face's hub (`speechssl export --to huggingface`)."""


def load_state(path: Path) -> dict[str, Any]:
    """Return a saved state on the CPU.

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
    """Return the first sentence of an error's message, or its type if it has none."""
    first_line = (str(error).splitlines() or [""])[0]
    return first_line.partition(". ")[0] or type(error).__name__


def current_settings(written: Mapping[str, Any]) -> dict[str, Any]:
    """Return a saved configuration with today's names in its sections `features` and `encoder`.

    Runs and model folders of older versions name no front end (it is log-mel) and have settings
    under names that have changed since.
    """
    features = with_default_name(written.get("features"))
    encoder = written.get("encoder", {})
    return {
        **written,
        "features": _section_with_new_names("features", features),
        "encoder": _section_with_new_names("encoders", encoder),
    }


def _section_with_new_names(folder: str, section: Any) -> Any:
    if not isinstance(section, Mapping) or not isinstance(section.get("name"), str):
        return section  # the check of the section says what is wrong with it
    return config.with_new_names(parts.find(folder, section["name"]), section)


class Model(nn.Module):
    """Waveforms to embeddings.

    Args:
        features: section `features` of a configuration: the front end's `name` (log-mel where it is
            absent) and its settings.
        encoder: section `encoder`: `name` and the settings of that encoder.
        about: what else is known of the weights (method, step, data, commit), kept with them.

    Raises:
        UserError: no such front end or encoder, or a setting that it does not have.
    """

    def __init__(
        self,
        features: Mapping[str, Any],
        encoder: Mapping[str, Any],
        about: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.settings = {
            "features": parts.check("features", with_default_name(features), "features"),
            "encoder": parts.check("encoders", encoder, "encoder"),
        }
        self.about = dict(about or {})
        self.front_end: FrontEnd = parts.build("features", self.settings["features"])
        self.encoder: Encoder = parts.build(
            "encoders", self.settings["encoder"], self.front_end.dim
        )

    @property
    def sample_rate(self) -> int:
        """Sampling rate of the waveforms that the model takes, Hz."""
        return self.front_end.sample_rate

    @property
    def dim(self) -> int:
        """Size D of an embedding."""
        return int(self.encoder.embedding_dim)

    def features(
        self, waves: Tensor, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Compute what the encoder takes.

        Args:
            waves: (B, T) samples in -1..1 at `sample_rate`.
            lengths: (B,) samples that count in each row; None: all T.

        Returns:
            Features (B, F, M), and the frames that count in each row, (B,); None without lengths,
            so that the encoder does without masks.
        """
        features, frames = self.front_end(waves, lengths)
        return features, None if lengths is None else frames

    def forward(self, waves: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return embeddings (B, D) of waves (B, T); `lengths` (B,) in samples, None: all T."""
        features, frames = self.features(waves, lengths)
        embeddings: Tensor = self.encoder(features, frames)
        return embeddings

    def save(self, folder: str | Path) -> None:
        """Write the configuration and the weights into `folder`, each file whole or not at all."""
        files = ModelFolder(folder)
        files.path.mkdir(parents=True, exist_ok=True)
        with atomic_write(files.weights) as temporary:
            torch.save(self.encoder.state_dict(), temporary)
        written = {"speechssl": speechssl.__version__, **self.settings, "about": self.about}
        with atomic_write(files.config) as temporary:
            config.write(written, temporary)

    @classmethod
    def from_config(
        cls, written: Mapping[str, Any], about: Mapping[str, Any] | None = None
    ) -> Model:
        """Build the model of a saved configuration, with random weights.

        Args:
            written: the configuration, with sections `features` and `encoder`, by this version of
                the package or an older one.
            about: what else is known of the weights.

        Raises:
            UserError: the configuration has something that this version does not know.
        """
        current = current_settings(written)
        return cls(current["features"], current["encoder"], about)

    @classmethod
    def load(cls, folder: str | Path) -> Model:
        """Return the model in `folder`, a model folder (also one for the hub) or a run folder.

        Raises:
            UserError: there is no model, or its weights do not fit its configuration.
        """
        settings, weights = _files(folder)
        if not weights.is_file() or not settings.is_file():
            raise UserError(
                f"model: {settings.parent} holds no {CONFIG} and {WEIGHTS}; give a run folder of"
                " 'speechssl train' whose training has saved a model, or a model folder"
            )
        written = config.read(settings)
        model = cls.from_config(written, written.get("about"))
        try:
            model.encoder.load_state_dict(_read(weights))
        except Exception as error:  # whatever pickle, zip or torch find wrong with it
            raise UserError(
                f"model: {weights} cannot be loaded ({_reason(error)}); save it again"
            ) from error
        return model.eval()


def _files(folder: str | Path) -> tuple[Path, Path]:
    """Return the files of configuration and weights: ours, or the hub's where ours are absent."""
    files = model_folder(folder)
    if not files.weights.is_file():
        for name in HUB_WEIGHTS:
            if (files.path / name).is_file():
                return files.path / HUB_CONFIG, files.path / name
    return files.config, files.weights


def _read(weights: Path) -> Mapping[str, Tensor]:
    if weights.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(str(weights))
    state: Mapping[str, Tensor] = torch.load(weights, map_location="cpu", weights_only=True)
    return state
