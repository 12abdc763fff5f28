"""`Embedder`: recordings to embeddings, from Python and in scikit-learn pipelines.

A batch gives each utterance the embedding that it has alone (masked features, convolutions and
pooling). Recordings longer than `max_seconds` are read and embedded in pieces of equal length,
whose embeddings are averaged, so memory is bounded; those shorter than 0.1 s are repeated
cyclically to 0.1 s.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from speechssl.compat import choose_precision
from speechssl.data.manifest import Utterance
from speechssl.embed import batches as batching
from speechssl.embed.arrays import find_device, in_samples, mono_wave
from speechssl.embed.batches import Failure, Piece, Samples
from speechssl.embed.layers import EMBEDDING, encode_layer
from speechssl.embed.networks import load_model
from speechssl.errors import UserError
from speechssl.model import Model

Precision = Literal["auto", "float32", "bfloat16"]
Matrix = npt.NDArray[np.float32]

SHORTEST = 0.1  # seconds: what is shorter is repeated to this length


def load(folder: str | Path, device: str = "cpu", precision: Precision = "float32") -> Embedder:
    """The trained model in `folder` (a model folder, or a run of `speechssl train`) as an
    `Embedder`.

    ``mfcc`` stands for MFCC statistics (`speechssl.embed.mfcc`), the baseline without weights.
    """
    return Embedder.from_pretrained(folder, device, precision)


class Embedder:
    """A trained model that turns recordings into embeddings.

    Args:
        model: waveforms to embeddings; it is moved to `device` and put into evaluation mode.
        device: "cpu", "cuda", "cuda:1" ...
        precision: of the encoder; "auto" takes the faster one of this hardware; "bfloat16" is good to about 2
            digits. Features and pooling are float32 in both.
        batch_seconds: padded seconds of audio encoded at once.
        max_seconds: longer recordings are embedded in equal pieces of at most this, and averaged.
        readers: threads that read and decode files ahead.
        layer: what is taken for the embedding: one of `speechssl.embed.layers.layer_names`.
    """

    def __init__(
        self,
        model: Model,
        device: str = "cpu",
        precision: Precision = "float32",
        *,
        batch_seconds: float = 60.0,
        max_seconds: float = 120.0,
        readers: int = 2,
        layer: str = EMBEDDING,
    ) -> None:
        if precision not in ("auto", "float32", "bfloat16"):
            raise UserError(
                f"embed: unknown precision {precision!r}; choose auto, float32 or bfloat16"
            )
        if not (batch_seconds > 0 and max_seconds >= 1 and readers >= 1):
            raise UserError(
                f"embed: batch_seconds={batch_seconds}, max_seconds={max_seconds},"
                f" readers={readers}: need more than 0, at least 1 and at least 1"
            )
        self.device = find_device(device)
        self.precision = choose_precision(precision, str(self.device))
        self.batch_seconds, self.max_seconds, self.readers = batch_seconds, max_seconds, readers
        self.model = model.to(self.device).eval()
        self.layer, self._dim = layer, model.dim
        if layer != EMBEDDING:
            self._dim = self.encode_batch(torch.zeros(1, self.rate // 4)).shape[1]

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        device: str = "cpu",
        precision: Precision = "float32",
        *,
        network: str | None = None,
        **settings: Any,
    ) -> Embedder:
        """The model saved in `folder`, or a `network` of that run (`speechssl.embed.networks`);
        UserError if there is none. `settings` are the constructor's.
        """
        return cls(load_model(folder, network), device, precision, **settings)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model (config.yaml, weights.safetensors) into `folder`, for `from_pretrained`."""
        self.model.save(folder)

    @property
    def dim(self) -> int:
        """Size D of an embedding."""
        return self._dim

    @property
    def rate(self) -> int:
        """Sampling rate at which the model hears, Hz; everything else is resampled to it."""
        return self.model.sample_rate

    def embed(
        self, source: str | os.PathLike[str] | npt.ArrayLike, rate: int | None = None
    ) -> Matrix:
        """One embedding (D,) float32.

        Args:
            source: path of an audio file, or samples: (T,), or (T, channels) as soundfile gives
                them (mixed down). Integers are scaled to -1..1.
            rate: sampling rate of the samples, Hz; needed with an array, not looked at with a file.

        Raises:
            UserError: the file cannot be read, or the samples are empty, silent, not finite,
                without a rate.
        """
        return self._one_each([source], rate)[0]

    def embed_files(
        self, paths: Sequence[str | os.PathLike[str]], *, progress: bool = False
    ) -> tuple[npt.NDArray[np.str_], Matrix, list[Failure]]:
        """Embed many files; the bad ones are left out and named.

        Returns:
            The paths that succeeded (N,) in the order given, their embeddings (N, D), and the
            failures.
        """
        utterances = [Utterance(os.fspath(path), os.fspath(path)) for path in paths]
        results = {index: result for index, _, result in self.stream(utterances, progress=progress)}
        ids, vectors, failed = [], [np.zeros((0, self.dim), np.float32)], []
        for index, result in sorted(results.items()):
            if isinstance(result, Failure):
                failed.append(result)
            else:
                ids.append(utterances[index].id)
                vectors.append(result[None])
        return np.array(ids, dtype=str), np.concatenate(vectors), failed

    def stream(
        self, utterances: Sequence[Utterance], *, progress: bool = False
    ) -> Iterator[tuple[int, float, Matrix | Failure]]:
        """Index in `utterances`, seconds, and embedding (D,) or failure: bad headers, then longest
        first.
        """
        return self._run(utterances, lambda piece: batching.read(piece, self.rate), progress)

    def encode_batch(
        self, wavs: npt.ArrayLike | Tensor, lengths: npt.ArrayLike | Tensor | None = None
    ) -> Tensor:
        """Embeddings (B, D) float32, on the device, of a padded batch, without gradient.

        Args:
            wavs: (B, T) or (T,) samples in -1..1 at `rate` Hz.
            lengths: (B,) valid length of each: integers count samples (1..T), floats are relative
                to T (0 < x <= 1, as SpeechBrain's `wav_lens`). None: all of T.

        Raises:
            UserError: the shapes or the lengths do not fit.
        """
        waves = torch.as_tensor(wavs, dtype=torch.float32, device=self.device)
        waves = waves[None] if waves.dim() == 1 else waves
        if waves.dim() != 2 or not waves.numel():
            raise UserError(
                f"encode_batch: wavs have shape {tuple(waves.shape)}; give (B, T) with samples in"
                " it"
            )
        samples = (
            None
            if lengths is None
            else in_samples(torch.as_tensor(lengths, device=self.device), waves)
        )
        with torch.no_grad():
            features, frames = self.model.features(waves, samples)
            bfloat16 = self.precision == "bfloat16"
            with torch.autocast(self.device.type, torch.bfloat16, enabled=bfloat16):
                return encode_layer(self.model.encoder, features, frames, self.layer)

    def fit(self, X: Any = None, y: Any = None) -> Embedder:
        """Nothing to learn; for scikit-learn pipelines."""
        return self

    def transform(self, X: Sequence[str | os.PathLike[str] | npt.ArrayLike]) -> Matrix:
        """Embeddings (N, D) of a list of paths or of arrays (T,) at `rate` Hz; raises the first
        failure.
        """
        return self._one_each(X, self.rate)

    def fit_transform(
        self, X: Sequence[str | os.PathLike[str] | npt.ArrayLike], y: Any = None
    ) -> Matrix:
        """`transform`."""
        return self.transform(X)

    def get_feature_names_out(self, input_features: Any = None) -> npt.NDArray[np.object_]:
        """Names (D,) of the columns of `transform`."""
        return np.array([f"embedding{index}" for index in range(self.dim)], dtype=object)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """No settings to search over; for scikit-learn pipelines."""
        return {}

    def set_params(self, **params: Any) -> Embedder:
        """For scikit-learn pipelines; there is nothing to set."""
        if params:
            raise UserError(
                f"Embedder has no parameter {next(iter(params))!r} to set; make another Embedder"
            )
        return self

    def __sklearn_clone__(self) -> Embedder:
        return self

    def _one_each(self, sources: Sequence[Any], rate: int | None) -> Matrix:
        """Embeddings (N, D) of paths and arrays; the first failure is raised."""
        utterances, waves = [], {}
        for index, source in enumerate(sources):
            seconds = 0.0
            if isinstance(source, str | os.PathLike):
                path = os.fspath(source)
            else:
                path = f"array {index}"
                waves[index] = mono_wave(source, rate, self.rate, path)
                seconds = len(waves[index]) / self.rate
            utterances.append(Utterance(str(index), path, 0.0, None, seconds))

        def load(piece: Piece) -> Samples | str:
            if piece.index not in waves:
                return batching.read(piece, self.rate)
            stop = None if piece.stop is None else round(piece.stop * self.rate)
            return waves[piece.index][round(piece.start * self.rate) : stop]

        out = np.zeros((len(utterances), self.dim), np.float32)
        for index, _, result in self._run(utterances, load, False):
            if isinstance(result, Failure):
                raise UserError(f"{result.path}: {result.reason}")
            out[index] = result
        return out

    def _run(
        self,
        utterances: Sequence[Utterance],
        load: Callable[[Piece], Samples | str],
        progress: bool,
    ) -> Iterator[tuple[int, float, Matrix | Failure]]:
        """See `stream`; `load` gives the samples of a piece."""
        from tqdm import tqdm

        with tqdm(total=len(utterances), desc="embed", unit="utt", disable=not progress) as bar:
            pieces: list[Piece] = []
            seconds = batching.durations(utterances, self.readers)
            for index, length in enumerate(seconds):
                if isinstance(length, Failure):
                    bar.update()
                    yield index, 0.0, length
                else:
                    pieces += batching.cut(index, utterances[index], length, self.max_seconds)
            planned = batching.batches(
                pieces, self.batch_seconds, by_bucket=self.precision == "bfloat16"
            )
            averages = batching.Averages(utterances)
            for batch in batching.read_ahead(planned, load, self.readers):
                for piece, samples, vector in self._vectors(batch):
                    result = averages.add(piece, samples, vector)
                    if result is not None:
                        bar.update()
                        yield piece.index, piece.seconds * piece.pieces, result

    def _vectors(
        self, batch: Sequence[tuple[Piece, Samples | str]]
    ) -> Iterator[tuple[Piece, int, Matrix | str | None]]:
        """Each piece with its samples and its vector (D,), why there is none, or None (silence)."""
        loud = [
            wave for _, wave in batch if not isinstance(wave, str) and not batching.is_silent(wave)
        ]
        vectors = iter(self._encode(loud))
        for piece, wave in batch:
            if isinstance(wave, str):
                yield piece, 0, wave
            elif batching.is_silent(wave):
                yield piece, 0, None
            else:
                yield piece, len(wave), next(vectors)

    def _encode(self, waves: Sequence[Samples]) -> Matrix:
        """Embeddings (B, D) of waves of any lengths, padded to the longest (in bfloat16: to its
        bucket).
        """
        if not waves:
            return np.zeros((0, self.dim), np.float32)
        shortest = round(SHORTEST * self.rate)
        waves = [wave if len(wave) >= shortest else np.resize(wave, shortest) for wave in waves]
        longest = max(len(wave) for wave in waves)
        if self.precision == "bfloat16":  # each new shape costs a set-up
            longest = max(longest, round(batching.bucket(longest / self.rate) * self.rate))
        batch = torch.zeros(len(waves), longest)
        for row, wave in zip(batch, waves, strict=True):
            row[: len(wave)] = torch.from_numpy(wave)
        lengths = torch.tensor([len(wave) for wave in waves])
        return (
            self.encode_batch(batch, None if bool((lengths == longest).all()) else lengths)
            .cpu()
            .numpy()
        )
