"""Front end and encoder as one module, and the folder that holds a trained one."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import speechssl
from speechssl import config, foreign, foreign_yaml, parts, weights
from speechssl.errors import UserError, writing
from speechssl.features import with_default_name
from speechssl.files import (
    FORMAT,
    ModelFolder,
    RunFolder,
    atomic_write,
    model_folder,
    shipped_models,
)
from speechssl.interfaces import Encoder, ForeignModel, FrontEnd
from speechssl.text import nearest


def read_saved_config(path: str | Path, allow_code: Collection[str] = ()) -> dict[str, Any]:
    """Return the configuration in a model or run folder, which may be somebody else's.

    Args:
        path: the file.
        allow_code: packages outside this one whose parts it may name.

    Raises:
        UserError: it is not there, is not such a file, or names code that was not allowed.
    """
    written = foreign_yaml.read(path)
    parts.refuse_outside_code(written, allow_code, path)
    return written


def current_settings(written: Mapping[str, Any]) -> dict[str, Any]:
    """Return a saved configuration with today's names in its sections `features` and `encoder`.

    Runs and model folders of older versions name no front end (it is log-mel) and have settings
    under names that have changed since.
    """
    features = with_default_name(written.get("features"))
    encoder = written.get("encoder", {})
    return {
        **written,
        "features": parts.with_new_names("features", features),
        "encoder": parts.with_new_names("encoders", encoder),
    }


class SavedWeights(NamedTuple):
    """The weights of an encoder before they are read.

    Attributes:
        file: where they are from, for messages.
        shapes: name -> shape of each.
        read: returns them.
    """

    file: Path
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[], Mapping[str, Tensor]]

    @classmethod
    def in_memory(cls, state: Mapping[str, Tensor], file: Path) -> SavedWeights:
        """Describe weights that have been read already, from `file`."""
        shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
        return cls(file, shapes, lambda: state)


class Model(nn.Module):
    """Waveforms to embeddings.

    Args:
        features: section `features` of a configuration: the front end's `name` (log-mel where it is
            absent) and its settings.
        encoder: section `encoder`: `name` and the settings of that encoder.
        about: what else is known of the weights (method, step, data, commit), kept with them.
        fitting: weights whose shapes the encoder must have, which is checked before memory is
            taken for it; None: no check.

    Raises:
        UserError: no such front end or encoder, a setting that it does not have, or an encoder
            that the weights do not fit.
    """

    def __init__(
        self,
        features: Mapping[str, Any],
        encoder: Mapping[str, Any],
        about: Mapping[str, Any] | None = None,
        *,
        fitting: SavedWeights | None = None,
    ) -> None:
        super().__init__()
        self.settings = {
            "features": parts.check("features", with_default_name(features), "features"),
            "encoder": parts.check("encoders", encoder, "encoder"),
        }
        self.about = dict(about or {})
        self.front_end: FrontEnd = parts.construct("features", self.settings["features"])
        if fitting is not None:
            _check_shapes(self.settings["encoder"], self.front_end.dim, fitting)
        self.encoder: Encoder = parts.construct(
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
        """Write the configuration and the weights into `folder`, each file whole or not at all.

        Raises:
            UserError: the folder cannot be written.
        """
        files = ModelFolder(folder)
        written = {
            "speechssl": speechssl.__version__,
            "format": FORMAT,
            **self.settings,
            "about": self.about,
        }
        with writing(files.path):
            files.path.mkdir(parents=True, exist_ok=True)
            weights.write(files.weights, self.encoder.state_dict())
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
    def load(cls, folder: str | Path, *, allow_code: Collection[str] = ()) -> Model:
        """Return the model in `folder`: a model folder, a run folder, or another program's model.

        The folder may be somebody else's: it names parts of this package only, and no memory is
        taken for an encoder before its sizes are found in the header of the weights.

        Args:
            folder: a model or run folder, a model of one of the formats in `foreign/`, or
                `hub:owner/name`.
            allow_code: packages outside this one whose parts its configuration may name.

        Raises:
            UserError: there is no model, its weights do not fit its configuration, or it names code
                that was not allowed.
        """
        folder = foreign.locate(folder)
        _refuse_state(folder)
        files = model_folder(folder)
        existing = files.existing()
        if existing is None or existing[0] == files.hub_config:  # transformers has that name, too
            other = foreign.read(folder)
            if other is not None:
                return cls.from_foreign(other)
        if existing is None:
            raise UserError(_no_model(files))
        config_file, weights_file = existing
        written = read_saved_config(config_file, allow_code)
        _check_format(written, config_file)
        about = written.get("about") or {}
        if not isinstance(about, Mapping):
            raise UserError(f"model: {config_file}: about must be a mapping, not {about!r}")
        saved = SavedWeights(
            weights_file, weights.shapes(weights_file), lambda: weights.read(weights_file)
        )
        return cls._with_weights(written, about, saved, config_file.name).eval()

    @classmethod
    def from_foreign(cls, other: ForeignModel) -> Model:
        """Build the model that another program has saved (`foreign.read`).

        Raises:
            UserError: its weights do not fit its settings.
        """
        settings = {"features": other.features, "encoder": other.encoder}
        saved = SavedWeights.in_memory(other.weights, other.weights_file)
        return cls._with_weights(settings, other.about, saved, "its settings").eval()

    @classmethod
    def from_state(
        cls,
        config_file: Path,
        state: Mapping[str, Tensor],
        state_file: Path,
        about: Mapping[str, Any] | None = None,
        *,
        allow_code: Collection[str] = (),
    ) -> Model:
        """Build the model of a saved configuration around weights that were read already.

        Args:
            config_file: the configuration, which may be somebody else's.
            state: of the encoder.
            state_file: where it is from, for messages.
            about: what else is known of the weights.
            allow_code: packages outside this one whose parts the configuration may name.

        Raises:
            UserError: the weights do not fit the configuration, or it names code that was not
                allowed.
        """
        written = read_saved_config(config_file, allow_code)
        saved = SavedWeights.in_memory(state, state_file)
        return cls._with_weights(written, about, saved, config_file.name)

    @classmethod
    def _with_weights(
        cls,
        written: Mapping[str, Any],
        about: Mapping[str, Any] | None,
        saved: SavedWeights,
        settings_name: str,
    ) -> Model:
        """Build the model of a saved configuration around weights.

        Args:
            written: the configuration, with sections `features` and `encoder`.
            about: what else is known of the weights.
            saved: the weights; read after their shapes have been found to fit.
            settings_name: what the configuration is called in messages.

        Raises:
            UserError: the weights do not fit the configuration, or it has something that this
                version does not know.
        """
        try:
            current = current_settings(written)
            model = cls(current["features"], current["encoder"], about, fitting=saved)
            model.encoder.load_state_dict(saved.read())
        except UserError:
            raise
        except Exception as error:  # what Python and torch say of sizes that make no sense
            raise UserError(
                f"model: {saved.file} does not fit {settings_name} ({_reason(error)})"
            ) from error
        return model


def _no_model(files: ModelFolder) -> str:
    """Return what to say where there is no model."""
    holds = f"{files.path} holds no {files.config.name} and {files.weights.name}"
    if not files.path.exists():
        hint = _meant(files.path)
        holds = f"{files.path}: no such file or folder{hint}"
    exported = sorted(files.path.glob("*.onnx"))
    if exported:
        holds += f" (did you mean {str(exported[0])!r}?)"
    return (
        f"model: {holds}; give a run folder of 'speechssl train' whose training has saved a model, a"
        " model folder, a model of another program ('speechssl list foreign'), or hub:owner/name"
    )


def _meant(missing: Path) -> str:
    """Return `` (did you mean 'X'?)`` for a path that is not there: a name on the hub, or a misspelt one."""
    looks_like_a_hub_name = len(missing.parts) == 2 and not missing.parent.exists()
    if looks_like_a_hub_name and not missing.is_absolute() and missing.parts[0] != "..":
        return f" (did you mean 'hub:{missing.as_posix()}'?)"
    return nearest(missing.name, [*shipped_models(), "mfcc"], cutoff=0.6)


def _check_format(written: Mapping[str, Any], path: Path) -> None:
    number = written.get("format", 0)
    if not isinstance(number, int) or number > FORMAT:
        raise UserError(
            f"model: {path} has format {number!r}, and this version reads up to {FORMAT}; install a"
            " newer speechssl"
        )


def _refuse_state(path: Path) -> None:
    """Raise UserError for a file of a run folder that holds an encoder but is no model."""
    run = RunFolder(path.parent.parent)
    step = re.fullmatch(r"step-0*(\d+)\.pt", path.name)
    if step is not None and path.parent == run.snapshots:
        raise UserError(
            f"model: {path} is a snapshot of a training; make a model of it with 'speechssl average"
            f" {run.path} --last 1 --until {step[1]} --out DIR'"
        )
    run = RunFolder(path.parent)
    if path == run.last and run.log.exists():
        raise UserError(f"model: {path} is the state of a training; give its folder, {run.path}")


def _check_shapes(encoder_settings: Mapping[str, Any], input_dim: int, saved: SavedWeights) -> None:
    """Compare an encoder with the shapes of its weights, taking no memory.

    Args:
        encoder_settings: checked section `encoder`.
        input_dim: M, numbers in a frame of features.
        saved: the weights.

    Raises:
        UserError: the settings are of another encoder than the weights.
    """
    with torch.device("meta"):
        encoder: Encoder = parts.construct("encoders", encoder_settings, input_dim)
    wanted = {name: tuple(tensor.shape) for name, tensor in encoder.state_dict().items()}
    for name in sorted(wanted.keys() | saved.shapes.keys()):
        is_there = saved.shapes.get(name, "absent")
        should_be = wanted.get(name, "absent")
        if is_there != should_be:
            raise UserError(
                f"model: {saved.file} does not fit its configuration: {name[:80]} is {is_there}"
                f" there and {should_be} by the settings"
            )


def _reason(error: Exception) -> str:
    """Return the first sentence of an error's message, or its type if it has none."""
    first_line = (str(error).splitlines() or [""])[0]
    return first_line.partition(". ")[0] or type(error).__name__
