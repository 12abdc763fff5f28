"""Front end and encoder as one module, and the folder that holds a trained one."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import speechssl
from speechssl import config, foreign, foreign_yaml, parts, weights
from speechssl.errors import UserError, writing
from speechssl.features import with_default_name
from speechssl.files import FORMAT, ModelFolder, atomic_write, model_folder
from speechssl.interfaces import Encoder, ForeignModel, FrontEnd


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
        self.front_end: FrontEnd = parts.construct("features", self.settings["features"])
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
        files = model_folder(folder)
        existing = files.existing()
        if existing is None or existing[0] == files.hub_config:  # transformers has that name, too
            other = foreign.read(folder)
            if other is not None:
                return cls.from_foreign(other)
        if existing is None:
            raise UserError(
                f"model: {files.path} holds no {files.config.name} and {files.weights.name}; give a"
                " run folder of 'speechssl train' whose training has saved a model, a model folder,"
                " a model of another program ('speechssl list foreign'), or hub:owner/name"
            )
        config_file, weights_file = existing
        written = read_saved_config(config_file, allow_code)
        _check_format(written, config_file)
        about = written.get("about") or {}
        if not isinstance(about, Mapping):
            raise UserError(f"model: {config_file}: about must be a mapping, not {about!r}")
        try:
            _check_sizes(current_settings(written), weights.shapes(weights_file), weights_file)
            model = cls.from_config(written, about)
            model.encoder.load_state_dict(weights.read(weights_file))
        except UserError:
            raise
        except Exception as error:  # what Python and torch say of sizes that make no sense
            raise _no_fit(weights_file, config_file, error) from error
        return model.eval()

    @classmethod
    def from_foreign(cls, other: ForeignModel) -> Model:
        """Build the model that another program has saved (`foreign.read`).

        Raises:
            UserError: its weights do not fit its settings.
        """
        settings = {"features": other.features, "encoder": other.encoder}
        held = {name: tuple(tensor.shape) for name, tensor in other.weights.items()}
        try:
            _check_sizes(settings, held, other.weights_file)
            model = cls(other.features, other.encoder, other.about)
            model.encoder.load_state_dict(other.weights)
        except UserError:
            raise
        except Exception as error:  # what Python and torch say of sizes that make no sense
            reason = _reason(error)
            raise UserError(
                f"model: {other.weights_file} does not fit its settings ({reason})"
            ) from error
        return model.eval()

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
        try:
            held = {name: tuple(tensor.shape) for name, tensor in state.items()}
            _check_sizes(current_settings(written), held, state_file)
            model = cls.from_config(written, about)
            model.encoder.load_state_dict(state)
        except UserError:
            raise
        except Exception as error:  # what Python and torch say of sizes that make no sense
            raise _no_fit(state_file, config_file, error) from error
        return model


def _check_format(written: Mapping[str, Any], path: Path) -> None:
    number = written.get("format", 0)
    if not isinstance(number, int) or number > FORMAT:
        raise UserError(
            f"model: {path} has format {number!r}, and this version reads up to {FORMAT}; install a"
            " newer speechssl"
        )


def _no_fit(weights_file: Path, config_file: Path, error: Exception) -> UserError:
    return UserError(f"model: {weights_file} does not fit {config_file.name} ({_reason(error)})")


def _check_sizes(
    written: Mapping[str, Any], held: Mapping[str, tuple[int, ...]], weights_file: Path
) -> None:
    """Compare the encoder of a configuration with the shapes of its weights, taking no memory.

    Args:
        written: the configuration, with today's names.
        held: shapes of the weights.
        weights_file: where they are from, for messages.

    Raises:
        UserError: the configuration asks for another encoder than the weights are of.
    """
    features = parts.check("features", written["features"], "features")
    front_end: FrontEnd = parts.construct("features", features)
    encoder_settings = parts.check("encoders", written["encoder"], "encoder")
    with torch.device("meta"):
        encoder: Encoder = parts.construct("encoders", encoder_settings, front_end.dim)
    wanted = {name: tuple(tensor.shape) for name, tensor in encoder.state_dict().items()}
    for name in sorted(wanted.keys() | held.keys()):
        if wanted.get(name) != held.get(name):
            raise UserError(
                f"model: {weights_file} does not fit its configuration: {name[:80]} is"
                f" {held.get(name, 'absent')} there and {wanted.get(name, 'absent')} by the settings"
            )


def _reason(error: Exception) -> str:
    """Return the first sentence of an error's message, or its type if it has none."""
    first_line = (str(error).splitlines() or [""])[0]
    return first_line.partition(". ")[0] or type(error).__name__
