"""`Embedder`: recordings to embeddings, from Python and in scikit-learn pipelines.

An utterance has the same embedding in a batch as alone: features, convolutions and
pooling are masked. Recordings longer than `max_seconds` are read and embedded in pieces
of equal length, whose embeddings are averaged, so memory is bounded; those shorter than
0.1 s are repeated cyclically to 0.1 s.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from speechssl.audio.silence import is_silent
from speechssl.audio.streaming import blocks
from speechssl.compat import choose_precision
from speechssl.data.manifest import Utterance
from speechssl.embed import batches as batching
from speechssl.embed.arrays import cut_out, find_device, in_samples, may_lack_operators, mono_wave
from speechssl.embed.batches import MIN_SECONDS, Failure, Piece, Samples
from speechssl.embed.estimator import Estimator, Matrix
from speechssl.embed.gather import gather
from speechssl.embed.hub import push
from speechssl.embed.layers import EMBEDDING, encode_layer
from speechssl.embed.networks import load_model
from speechssl.embed.recordings import Source, resolve, several
from speechssl.embed.windows import LiveWindows, Windows, joined
from speechssl.errors import Unreadable, UserError
from speechssl.model import Model
from speechssl.nn.int8 import check_int8, with_int8_products
from speechssl.progress import progress as show_progress

Precision = Literal["auto", "float32", "bfloat16", "int8"]


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
        batch_seconds: padded seconds of audio encoded at once.
        max_seconds: longer recordings are embedded in equal pieces of at most this, and
            averaged.
        readers: threads that read and decode files ahead.
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
        batch_seconds: float = 60.0,
        max_seconds: float = 120.0,
        readers: int = 2,
        layer: str = EMBEDDING,
    ) -> None:
        if precision not in get_args(Precision):
            raise UserError(
                f"embed: unknown precision {precision!r}; choose {', '.join(get_args(Precision))}"
            )
        if not (batch_seconds > 0 and max_seconds >= 1 and readers >= 1):
            raise UserError(
                f"embed: batch_seconds={batch_seconds}, max_seconds={max_seconds},"
                f" readers={readers}: need more than 0, at least 1 and at least 1"
            )
        self.device = find_device(device)
        self.precision: Precision = precision
        self.used_precision: Literal["float32", "bfloat16", "int8"] = "int8"
        rest: Literal["auto", "float32", "bfloat16"]  # of all but the products in 8 bits
        if precision == "int8":
            check_int8(self.device)
            rest = "auto"
        else:
            rest = precision
            self.used_precision = choose_precision(precision, str(self.device))
        self._uses_bfloat16 = choose_precision(rest, str(self.device)) == "bfloat16"
        self.batch_seconds = batch_seconds
        self.max_seconds = max_seconds
        self.readers = readers
        self.layer = layer
        self.model = model.to(self.device).eval()
        self._encoder = self.model.encoder
        if device == "auto" and may_lack_operators(self.device) and not self._can_encode():
            self.device = torch.device("cpu")
            self.model.to(self.device)
        if precision == "int8":
            self._encoder = with_int8_products(self.model.encoder)
        self._dim = model.dim
        if layer != EMBEDDING:
            quarter_second = torch.zeros(1, self.sample_rate // 4)
            self._dim = self.encode_batch(quarter_second).shape[1]

    def _can_encode(self) -> bool:
        """True if the device has every operator of the model; a quarter of a second tells."""
        try:
            self.encode_batch(torch.zeros(1, self.sample_rate // 4))
        except (RuntimeError, TypeError):  # not implemented, or not in float64
            return False
        return True

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
        return self._dim

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

        return self._stream(utterances, read, done, progress, self.max_seconds)

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
        waves = torch.as_tensor(wavs, dtype=torch.float32, device=self.device)
        if waves.dim() == 1:
            waves = waves[None]
        if waves.dim() != 2 or not waves.numel():
            raise UserError(
                f"encode_batch: wavs have shape {tuple(waves.shape)}; give (B, T) with samples in"
                " it"
            )
        samples = None
        if lengths is not None:
            samples = in_samples(torch.as_tensor(lengths, device=self.device), waves)
        with torch.no_grad():
            features, frames = self.model.features(waves, samples)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self._uses_bfloat16):
                return encode_layer(self._encoder, features, frames, self.layer)

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
        for index, _seconds, result in self._stream(utterances, read):
            if isinstance(result, Failure):
                raise UserError(f"{result.path}: {result.reason}")
            vectors[index] = result
        return vectors

    def _stream(
        self,
        utterances: Sequence[Utterance],
        read: Callable[[Piece], Samples | Unreadable],
        done: Collection[str] = frozenset(),
        progress: bool | None = False,
        trusted_seconds: float = math.inf,
    ) -> Iterator[tuple[int, float, Matrix | Failure]]:
        """Do what `stream` says.

        Args:
            utterances: as for `stream`.
            read: gives the samples of a piece.
            done: as for `stream`.
            progress: as for `stream`.
            trusted_seconds: see `batches.durations`.
        """
        wanted = [utterance.id not in done for utterance in utterances]
        with show_progress(sum(wanted), "embed", "utt", show=progress) as count:
            pieces: list[Piece] = []
            lengths = batching.durations(utterances, self.readers, trusted_seconds)
            for index, seconds in enumerate(lengths):
                if not isinstance(seconds, Failure):
                    pieces += batching.split(index, utterances[index], seconds, self.max_seconds)
                elif wanted[index]:
                    count(1)
                    yield index, 0.0, seconds
            averages = batching.Averages(utterances)
            for batch in batching.read_ahead(
                self._batches(pieces, wanted), read, self.readers, self.sample_rate
            ):
                for piece, samples, vector in self._vectors(batch):
                    if not wanted[piece.index]:
                        continue
                    result = averages.add(piece, samples, vector)
                    if result is not None:
                        count(1)
                        yield piece.index, piece.seconds * piece.pieces, result

    def _batches(self, pieces: Sequence[Piece], wanted: Sequence[bool]) -> list[list[Piece]]:
        """Return those batches of all pieces that hold a piece of a wanted utterance."""
        batches = batching.make_batches(pieces, self.batch_seconds, by_bucket=self._uses_bfloat16)
        return [batch for batch in batches if any(wanted[piece.index] for piece in batch)]

    def _vectors(
        self, batch: Sequence[tuple[Piece, Samples | Unreadable]]
    ) -> Iterator[tuple[Piece, int, Matrix | Unreadable | None]]:
        """Yield each piece, its samples, and its vector (D,); None for a silent one."""
        audible = []
        for _piece, wave in batch:
            if not isinstance(wave, Unreadable) and len(wave) and not is_silent(wave):
                audible.append(wave)
        vectors = iter(self.encode(audible))
        for piece, wave in batch:
            if isinstance(wave, Unreadable):
                yield piece, 0, wave
            elif not len(wave) or is_silent(wave):
                yield piece, 0, None
            else:
                yield piece, len(wave), next(vectors)

    def encode(self, waves: Sequence[Samples]) -> Matrix:
        """Return embeddings (B, D) of waves (T,) of any lengths at `sample_rate` Hz, as one batch.

        They are padded to the longest. In bfloat16 they are padded to the edge of its
        bucket: each new shape costs a set-up.
        """
        if not waves:
            return np.zeros((0, self.dim), np.float32)
        shortest = round(MIN_SECONDS * self.sample_rate)
        waves = [wave if len(wave) >= shortest else np.resize(wave, shortest) for wave in waves]
        lengths = torch.tensor([len(wave) for wave in waves])
        longest = int(lengths.max())
        if self._uses_bfloat16:
            edge = batching.bucket_edge(longest / self.sample_rate)
            longest = max(longest, round(edge * self.sample_rate))
        padded = torch.zeros(len(waves), longest)
        for row, wave in zip(padded, waves, strict=True):
            row[: len(wave)] = torch.from_numpy(wave)
        all_full = bool((lengths == longest).all())
        return self.encode_batch(padded, None if all_full else lengths).cpu().numpy()


def _length(span: Utterance) -> float:
    """Return the seconds of a span whose end is known, else 0: the header will say."""
    return 0.0 if span.stop is None else span.stop - span.start
