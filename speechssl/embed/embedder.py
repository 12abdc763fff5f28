"""`Embedder`: recordings to embeddings, from Python and in scikit-learn pipelines.

An utterance has the same embedding in a batch as alone: features, convolutions and
pooling are masked. Recordings longer than `max_seconds` are read and embedded in pieces
of equal length, whose embeddings are averaged, so memory is bounded; those shorter than
0.1 s are repeated cyclically to 0.1 s.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from speechssl.audio.streaming import blocks
from speechssl.data.manifest import Utterance
from speechssl.embed import batches as batching
from speechssl.embed.arrays import cut_out, mono_wave
from speechssl.embed.batch_encoder import BatchEncoder, Precision
from speechssl.embed.batches import Failure, Matrix, Piece, Samples
from speechssl.embed.estimator import Estimator
from speechssl.embed.gather import gather
from speechssl.embed.hub import push
from speechssl.embed.layers import EMBEDDING
from speechssl.embed.networks import load_model
from speechssl.embed.recordings import Source, resolve, several
from speechssl.embed.stream import StreamSettings, embed_stream
from speechssl.embed.windows import LiveWindows, Windows, joined
from speechssl.errors import Unreadable, UserError
from speechssl.model import Model
from speechssl.threads import usable_cores


def load(
    folder: str | Path,
    device: str | torch.device = "auto",
    precision: Precision = "float32",
    *,
    features: str | None = None,
    allow_code: Collection[str] = (),
) -> Embedder:
    """Return the trained model in a folder as an `Embedder`.

    Args:
        folder: a model folder or a run of `speechssl train`; another program's model
            (`speechssl/foreign/`), an ONNX file or ``hub:owner/name``; ``mfcc`` stands for MFCC
            statistics (`speechssl.embed.mfcc`), the baseline without weights.
        device: "cpu", "cuda", "cuda:1", "mps" ..., or "auto": a GPU where there is one.
        precision: of the encoder.
        features: what an ONNX file takes, where it does not say: the name of a front end,
            or ``{name: kaldi, window_type: hamming}``.
        allow_code: packages outside this one whose parts the folder may name.

    Raises:
        UserError: there is no model, it names code that was not allowed, or no such
            device.
    """
    return Embedder.from_pretrained(
        folder, device, precision, features=features, allow_code=allow_code
    )


class Embedder(Estimator):
    """A trained model that turns recordings into embeddings; a scikit-learn transformer.

    Args:
        model: waveforms to embeddings; it is moved to `device` and put into evaluation
            mode.
        device: "cpu", "cuda", "cuda:1", "mps" ..., or "auto": a GPU where there is one.
        precision: of the encoder; "auto" takes the faster one of this hardware;
            "bfloat16" is good to about 2 digits; "int8" (a CPU with VNNI or AMX) has the
            large products in 8 bits and the rest as with "auto". Features are float32
            in all of them, and so are the sums of pooling and norms.
        batch_seconds: padded seconds of audio encoded at once; None: 60, on a GPU 600.
        max_seconds: longer recordings are embedded in equal pieces of at most this, and
            averaged.
        readers: threads that read and decode files ahead; None: 2, and on a GPU, which
            would wait for two, one for each core that this process may use, at most 16.
        layer: which layer gives the embedding: one of
            `speechssl.embed.layers.layer_names`.

    Raises:
        UserError: a setting that cannot be, no such device, or no such layer.
    """

    def __init__(
        self,
        model: Model,
        device: str | torch.device = "auto",
        precision: Precision = "float32",
        *,
        batch_seconds: float | None = None,
        max_seconds: float = 60.0,
        readers: int | None = None,
        layer: str = EMBEDDING,
    ) -> None:
        if not isinstance(model, Model):
            raise UserError(
                f"Embedder: a {type(model).__name__} is no Model; speechssl.load(...) takes names"
                " and folders"
            )
        self._encoder = BatchEncoder(model, device, precision, layer)
        self.model = self._encoder.model
        self.device = self._encoder.device
        on_gpu = self.device.type != "cpu"
        if batch_seconds is None:
            batch_seconds = 600.0 if on_gpu else 60.0
        if readers is None:
            readers = min(16, usable_cores()) if on_gpu else 2
        if not (batch_seconds > 0 and max_seconds >= 1 and readers >= 1):
            raise UserError(
                f"embed: batch_seconds={batch_seconds}, max_seconds={max_seconds},"
                f" readers={readers}: need more than 0, at least 1 and at least 1"
            )
        self.precision: Precision = precision
        self.used_precision = self._encoder.used_precision
        self.batch_seconds = batch_seconds
        self.max_seconds = max_seconds
        self.readers = readers
        self.layer = layer

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        device: str | torch.device = "auto",
        precision: Precision = "float32",
        *,
        network: str | None = None,
        features: str | None = None,
        allow_code: Collection[str] = (),
        **settings: Any,
    ) -> Embedder:
        """Return the model saved in `folder`.

        Args:
            folder: a model folder, a run folder, or ``mfcc``.
            device: as for the constructor.
            precision: as for the constructor.
            network: which network of a run, such as student or teacher
                (`speechssl.embed.networks`); None: the one that the run saved.
            features: as for `load`.
            allow_code: packages outside this one whose parts the folder may name.
            settings: the constructor's other ones.

        Raises:
            UserError: there is no model, it names code that was not allowed, or no such
                network.
        """
        model = load_model(folder, network, features=features, allow_code=allow_code)
        embedder = cls(model, device, precision, **settings)
        embedder.name = str(folder)
        return embedder

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model (config.yaml, weights.safetensors) into `folder`, for `from_pretrained`."""
        self.model.save(folder)

    def push_to_hub(
        self, repository: str, *, results: Sequence[str | Path] = (), private: bool = False
    ) -> str:
        """Upload the model to the Hugging Face hub; see `speechssl.embed.hub.push`."""
        return push(self.model, repository, results=results, private=private)

    def __repr__(self) -> str:
        encoder = self.model.settings["encoder"]["name"]
        count = sum(parameter.numel() for parameter in self.model.parameters())
        name = f"{self.name}: " if self.name else ""
        layer = "" if self.layer == EMBEDDING else f", layer {self.layer}"
        return (
            f"Embedder({name}{encoder}, {self.dim} dimensions{layer}, {self.sample_rate} Hz,"
            f" {count:,} weights, on {self.device} in {self.used_precision})"
        )

    @property
    def dim(self) -> int:
        """D, size of an embedding."""
        return self._encoder.dim

    @property
    def sample_rate(self) -> int:
        """Sampling rate of the model, Hz; recordings at another rate are resampled to it."""
        return self.model.sample_rate

    @property
    def rate(self) -> int:
        """The earlier name of `sample_rate`."""
        return self.sample_rate

    def embed(
        self,
        source: Source,
        sample_rate: int | None = None,
        *,
        start: float = 0.0,
        stop: float | None = None,
        channel: int | None = None,
        rate: int | None = None,
    ) -> Matrix:
        """Return the embedding (D,) float32 of a recording, or those (N, D) of a list.

        Args:
            source: path of an audio file, its bytes, a binary file object; samples (T,),
                (T, channels) or (channels, T), mixed down, integers scaled to -1..1; a
                dictionary of pyannote or datasets (`speechssl.embed.recordings`); or a list
                of these.
            sample_rate: of the samples, Hz; needed with an array, ignored where the
                source has its own.
            start: where to begin, seconds.
            stop: where to end, seconds; None: at the end.
            channel: which channel, from 1 as in RTTM and sox; None: the mean of all.
            rate: the earlier name of `sample_rate`.

        Raises:
            UserError: a file cannot be read (`embed_files` leaves it out), or samples are
                empty, silent, not finite, or without a sampling rate; there is no such
                span or channel.
        """
        if sample_rate is None:
            sample_rate = rate
        span = Utterance("0", "", start, stop, channel=channel)
        many = several(source)
        if many is not None:
            return self._embed_each(many, sample_rate, span)
        vector: Matrix = self._embed_each([source], sample_rate, span)[0]
        return vector

    def embed_each(self, sources: Iterable[Source]) -> Matrix:
        """Return embeddings (N, D) of recordings; an array is at the model's sampling rate.

        Raises:
            UserError: the first one that cannot be embedded.
        """
        return self._embed_each(list(sources), self.sample_rate)

    def windows(
        self,
        source: Source,
        sample_rate: int | None = None,
        *,
        window: float = 3.0,
        hop: float = 1.5,
        start: float = 0.0,
        stop: float | None = None,
        channel: int | None = None,
    ) -> Windows:
        """Return one embedding a window that slides over a recording.

        A file is decoded once, in bounded memory. `speechssl.embed.windows.window_spans`
        says where windows lie; silent ones have no embedding and are left out.

        Args:
            source: as for `embed`, and so are the others.
            sample_rate: of the samples, Hz; needed with an array.
            window: length of a window, seconds.
            hop: from one window to the next, seconds.
            start: seconds; times that are returned count from the beginning of the
                source.
            stop: seconds, or None for the end.
            channel: which channel, from 1; None: the mean of all.

        Raises:
            UserError: as `embed`, and a window or hop that cannot be.
        """
        live = LiveWindows(self, self.sample_rate, window=window, hop=hop, start=start)
        found_at = resolve(source, sample_rate, "array")
        channel = found_at.channel if channel is None else channel
        if found_at.samples is None:
            wave_blocks = blocks(found_at.file, self.sample_rate, start, stop, channel)
        else:
            wave = mono_wave(
                found_at.samples, found_at.sample_rate, self.sample_rate, "array", channel
            )
            wave_blocks = iter([cut_out(wave, self.sample_rate, start, stop, "array")])
        found = [live.feed(block) for block in wave_blocks]
        return joined([*found, live.finish()])

    def live(self, sample_rate: int, *, window: float = 3.0, hop: float = 1.5) -> LiveWindows:
        """Return a stream: feed it samples as they come, and get the windows that are complete.

        The numbers are those of `windows` over the whole.

        Args:
            sample_rate: of the samples that are fed, Hz.
            window: length of a window, seconds.
            hop: from one window to the next, seconds.
        """
        return LiveWindows(self, sample_rate, window=window, hop=hop)

    def embed_files(
        self, paths: Sequence[str | os.PathLike[str]], *, progress: bool = False
    ) -> tuple[npt.NDArray[np.str_], Matrix, list[Failure]]:
        """Embed many files; the bad ones are left out and named.

        Returns:
            The paths that succeeded (N,) in the order given, their embeddings (N, D)
            float32, and the failures.
        """
        utterances = [Utterance(os.fspath(path), os.fspath(path)) for path in paths]
        kept, matrix, failed = gather(self, utterances, progress=progress)
        return np.array([utterance.id for utterance in kept], dtype=str), matrix, failed

    def stream(
        self,
        utterances: Sequence[Utterance],
        *,
        done: Collection[str] = frozenset(),
        progress: bool | None = False,
    ) -> Iterator[tuple[int, float, Matrix | Failure]]:
        """Embed utterances in the order that is fastest: the longest first.

        Args:
            utterances: what to embed.
            done: ids that are not wanted again. The batches stay those of all
                utterances, and those that hold a wanted one are encoded: what was
                interrupted ends in the same bits.
            progress: show a progress bar; None: as commands do (`speechssl.progress`).

        Yields:
            Index in `utterances`, its seconds, and its embedding (D,) float32 or the
            failure. Files without a readable header come first.
        """

        def read(piece: Piece) -> Samples | Unreadable:
            return batching.read_piece(piece, self.sample_rate)

        settings = self._stream_settings(self.max_seconds)
        return embed_stream(self._encoder, utterances, read, settings, done=done, progress=progress)

    def encode_batch(
        self, wavs: npt.ArrayLike | Tensor, lengths: npt.ArrayLike | Tensor | None = None
    ) -> Tensor:
        """Return embeddings (B, D) float32 of a padded batch, on the device, without gradient.

        Args:
            wavs: (B, T) or (T,) samples in -1..1 at `sample_rate` Hz.
            lengths: (B,) valid length of each: integers count samples (1..T), floats
                are relative to T (0 < x <= 1, as SpeechBrain's `wav_lens`). None: all
                of T.

        Raises:
            UserError: the shapes or the lengths do not fit.
        """
        return self._encoder.encode_batch(wavs, lengths)

    def encode(self, waves: Sequence[Samples]) -> Matrix:
        """Return embeddings (B, D) of waves (T,) of any lengths at `sample_rate` Hz, as one batch.

        They are padded to the longest, in bfloat16 to the edge of its length bucket.
        """
        return self._encoder.encode(waves)

    def _embed_each(
        self,
        sources: Sequence[Source],
        sample_rate: int | None,
        span: Utterance | None = None,
    ) -> Matrix:
        """Return embeddings (N, D) of paths and arrays; raise the first failure.

        `span` says which part of each, and which channel; None: all.
        """
        span = span or Utterance("0", "")
        start = span.start
        stop = span.stop
        utterances = []
        waves: dict[int, Samples] = {}
        for index, source in enumerate(sources):
            name = f"recording {index}"
            found = resolve(source, sample_rate, name)
            channel = found.channel if span.channel is None else span.channel
            if found.samples is None:
                part = replace(span, id=str(index), path=found.file, channel=channel)
                utterances.append(replace(part, seconds=_length(span)))
                continue
            wave = mono_wave(found.samples, found.sample_rate, self.sample_rate, name, channel)
            waves[index] = cut_out(wave, self.sample_rate, start, stop, name)
            seconds = len(waves[index]) / self.sample_rate
            utterances.append(Utterance(str(index), name, seconds=seconds))

        def read(piece: Piece) -> Samples | Unreadable:
            if piece.index not in waves:
                return batching.read_piece(piece, self.sample_rate)
            first = round(piece.start * self.sample_rate)
            last = None if piece.stop is None else round(piece.stop * self.sample_rate)
            return waves[piece.index][first:last]

        vectors = np.zeros((len(utterances), self.dim), np.float32)
        for index, _seconds, result in embed_stream(
            self._encoder, utterances, read, self._stream_settings(math.inf)
        ):
            if isinstance(result, Failure):
                raise UserError(f"{result.path}: {result.reason}")
            vectors[index] = result
        return vectors

    def _stream_settings(self, trusted_seconds: float) -> StreamSettings:
        """Return how utterances are read and batched."""
        return StreamSettings(self.batch_seconds, self.max_seconds, self.readers, trusted_seconds)


def _length(span: Utterance) -> float:
    """Return the seconds of a span whose end is known, else 0: the header will say."""
    return 0.0 if span.stop is None else span.stop - span.start
