"""Log-mel filterbank energies with mean normalisation, in one batch on the waveforms' device.

Frame i covers samples i * shift to i * shift + length. Nothing is padded or centred, so a frame
depends on its own samples alone, and an utterance in a padded batch has exactly the frames that it
has by itself.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from speechssl.errors import UserError
from speechssl.features.filters import FilterScale, WindowType, analysis_window, mel_filters
from speechssl.interfaces import FrontEnd

# Frames worked on at once. On a CPU the spectra of one block stay in the cache (measured: 384 crops
# of 2 s take 0.23 s on one core in blocks of 1,024 frames a thread, 0.78 s in one piece); on a GPU
# the block bounds memory.
_CPU_FRAMES = 1024
_GPU_FRAMES = 1 << 18

NORMALISATIONS = ("mean", "standard", "sliding", "level", "none")
_MIN_VARIANCE = 1e-5  # added to a band's variance, as InstanceNorm does
WINDOW_TYPES = ("hann", "povey", "hamming")

MAX_SAMPLE_RATE = 1_000_000
MAX_N_MELS = 1_000
MAX_SECONDS = 1.0
MAX_CONTEXT = 1_000_000
"""Bounds of settings, far beyond any use: a model folder may be somebody else's."""


def check_bounds(
    sample_rate: int,
    frame_length: float,
    frame_shift: float,
    n_mels: int,
    preemphasis: float,
    floor: float,
) -> None:
    """Raise UserError for settings that no recording has, among them NaN."""
    if not 1 <= sample_rate <= MAX_SAMPLE_RATE:
        raise UserError(
            f"features: sample_rate={sample_rate} Hz must be between 1 and {MAX_SAMPLE_RATE}"
        )
    if not (0 < frame_length <= MAX_SECONDS and 0 < frame_shift <= MAX_SECONDS):
        raise UserError(
            f"features: frame_length={frame_length} s and frame_shift={frame_shift} s must be above"
            f" 0 and at most {MAX_SECONDS:g}"
        )
    if not 1 <= n_mels <= MAX_N_MELS:
        raise UserError(f"features: n_mels={n_mels} must be between 1 and {MAX_N_MELS}")
    if not (0 <= preemphasis <= 1 and 0 < floor <= 1):
        raise UserError(
            f"features: preemphasis={preemphasis} must be between 0 and 1, floor={floor} above 0 and"
            " at most 1"
        )


class LogMel(FrontEnd):
    """Log-mel filterbank energies with mean normalisation.

    Args:
        sample_rate: sampling rate of the waveforms, Hz.
        frame_length: length of a frame, seconds (0.025 = 400 samples at 16 kHz).
        frame_shift: from the start of a frame to the start of the next, seconds.
        n_mels: number of triangular mel bands M.
        f_min: lower edge of the first band, Hz.
        f_max: upper edge of the last band, Hz (at most sample_rate / 2).
        normalise: "mean" subtracts each band's mean over the valid frames of the utterance (any
            linear channel and any gain is a constant in the log domain and goes with it);
            "standard" divides by each band's deviation as well (3D-Speaker's InstanceNorm); "sliding"
            subtracts the mean over a window of `context` frames around each frame, moved inwards at
            both ends as Kaldi's apply-cmvn-sliding --center does (Cho et al. 2022: 150 frames on
            each side, 301 in all, reflected at the ends, no variance); "level" subtracts one
            number, the mean over frames and bands: the gain goes, the long-term spectrum stays,
            which tells voices apart and recording channels too; "none" keeps both.
        context: frames of the sliding mean.
        window_type: "hann" (periodic, as librosa's), "povey" (symmetric Hann to the power 0.85,
            Kaldi's) or "hamming" (symmetric, as Kaldi's).
        preemphasis: coefficient a of x[t] - a x[t-1]; 0 = off (under mean normalisation a fixed
            filter all but cancels).
        remove_dc_offset: subtract the mean of the samples of each "frame", as Kaldi does
            (pre-emphasis then stays within the frame, too), or of the whole "utterance", as
            hyperion does; "none": keep it.
        filter_scale: the sides of the triangles are straight over "hertz", as librosa's, or over
            "mel", as Kaldi's; "symmetric": over hertz and equally wide, as SpeechBrain's.
        floor: added to the mel energies before the logarithm (waveforms in -1..1), so silence is
            finite.

    Kaldi's fbank has a front end of its own (`kaldi`). Dither is part of training
    (`augment.dither`), not of the features.

    The mel scale is HTK's, 2595 log10(1 + f/700), with triangles of height 1; the FFT length is the
    next power of two (512 at 16 kHz: on the CPUs measured five times faster than 400).

    Attributes:
        win_length: samples of a frame.
        hop_length: samples from a frame to the next.
        n_fft: samples of the FFT.

    Raises:
        UserError: a setting is out of its range.
    """

    RENAMED: ClassVar[dict[str, str]] = {
        "rate": "sample_rate",
        "window": "frame_length",
        "hop": "frame_shift",
        "mels": "n_mels",
        "low": "f_min",
        "high": "f_max",
        "shape": "window_type",
    }

    window: Tensor
    filters: Tensor

    def __init__(
        self,
        *,
        sample_rate: int = 16000,
        frame_length: float = 0.025,
        frame_shift: float = 0.010,
        n_mels: int = 80,
        f_min: float = 20.0,
        f_max: float = 7600.0,
        normalise: Literal["mean", "standard", "sliding", "level", "none"] = "mean",
        context: int = 150,
        window_type: WindowType = "hann",
        preemphasis: float = 0.0,
        remove_dc_offset: Literal["none", "frame", "utterance"] = "none",
        filter_scale: FilterScale = "hertz",
        floor: float = 1e-7,
    ) -> None:
        super().__init__()
        check_bounds(sample_rate, frame_length, frame_shift, n_mels, preemphasis, floor)
        if normalise not in NORMALISATIONS:
            raise UserError(
                f"features: unknown normalise={normalise!r}; choose {'|'.join(NORMALISATIONS)}"
            )
        if window_type not in WINDOW_TYPES:
            raise UserError(
                f"features: unknown window_type={window_type!r}; choose {'|'.join(WINDOW_TYPES)}"
            )
        self.win_length = round(frame_length * sample_rate)
        self.hop_length = round(frame_shift * sample_rate)
        if self.win_length < 2 or self.hop_length < 1:
            raise UserError(
                f"features: frame_length={frame_length:g} s and frame_shift={frame_shift:g} s are"
                f" {self.win_length} and {self.hop_length} samples at {sample_rate} Hz; choose longer"
            )
        self.n_fft = 1 << (self.win_length - 1).bit_length()
        if not 1 <= context <= MAX_CONTEXT:
            raise UserError(f"features: context={context} must be between 1 and {MAX_CONTEXT}")
        self.sample_rate = sample_rate
        self.dim = n_mels
        self.frames_per_second = sample_rate / self.hop_length
        self.normalise = normalise
        self.context = context
        self.preemphasis = preemphasis
        self.remove_dc_offset = remove_dc_offset
        self.floor = floor
        window = analysis_window(window_type, self.win_length)
        filters = mel_filters(sample_rate, self.n_fft, n_mels, f_min, f_max, filter_scale)
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("filters", filters, persistent=False)

    def frames(self, samples: Tensor) -> Tensor:
        """Return the number of frames of utterances of so many samples (int64); at least 1."""
        return 1 + (samples - self.win_length).clamp(min=0) // self.hop_length

    def forward(self, waves: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Compute the features of a batch.

        Args:
            waves: (B, T) samples in -1..1; what lies beyond an utterance's length is ignored.
            lengths: (B,) int64 valid samples of each row; None: all T. Rows shorter than one frame
                are repeated cyclically to one frame.

        Returns:
            Features (B, F, M) in float32 (also under autocast), zero on padded frames, and the
            number of valid frames of each row, (B,) int64.
        """
        if waves.dim() != 2 or waves.shape[1] == 0:
            raise ValueError(f"expected waves (B, T) with T > 0, got {tuple(waves.shape)}")
        with torch.autocast(device_type=waves.device.type, enabled=False):
            waves = self._at_least_a_frame(waves.float(), lengths)
            if self.remove_dc_offset == "utterance":
                waves = without_mean(waves, self._samples_that_count(lengths))
            if self.remove_dc_offset != "frame":
                waves = preemphasised(waves, self.preemphasis)
            features = self._log_mel(waves)
            count = features.shape[1]
            if lengths is None:
                valid = torch.full((len(features),), count, device=waves.device)
                return self.normalised(features), valid
            valid = self.frames(lengths.to(waves.device)).clamp(max=count)
            return self.normalised(features, valid), valid

    def _at_least_a_frame(self, waves: Tensor, lengths: Tensor | None) -> Tensor:
        """Repeat rows that are shorter than one frame cyclically to one frame."""
        batch, samples = waves.shape
        shorter = samples < self.win_length
        if lengths is not None:
            shorter = shorter or bool((lengths < self.win_length).any())
        if not shorter:
            return waves
        size = torch.full((batch,), samples, device=waves.device)
        if lengths is not None:
            size = lengths.to(waves.device).clamp(min=1)
        index = torch.arange(max(self.win_length, samples), device=waves.device).expand(batch, -1)
        index = torch.where(size[:, None] < self.win_length, index % size[:, None], index)
        return waves.gather(1, index.clamp(max=samples - 1))

    def _samples_that_count(self, lengths: Tensor | None) -> Tensor | None:
        """Return the lengths (B,) after short rows were repeated to one frame; None: all samples."""
        return None if lengths is None else lengths.clamp(min=self.win_length)

    def _log_mel(self, waves: Tensor) -> Tensor:
        """Return log-mel energies (B, F, M) of waves (B, T), not normalised.

        They are computed block by block, so that the spectra of one block stay in the cache.
        """
        frames = waves.unfold(1, self.win_length, self.hop_length)
        block = _GPU_FRAMES
        if waves.device.type == "cpu":
            block = _CPU_FRAMES * torch.get_num_threads()
        rows = max(1, block // frames.shape[1])
        groups = []
        for group in torch.split(frames, rows, dim=0):
            blocks = [self._block(piece) for piece in torch.split(group, block, dim=1)]
            groups.append(torch.cat(blocks, dim=1))
        return groups[0] if len(groups) == 1 else torch.cat(groups)

    def _block(self, frames: Tensor) -> Tensor:
        """Return log-mel energies (b, f, M) of frames of samples (b, f, win_length)."""
        if self.remove_dc_offset == "frame":
            frames = frames - frames.mean(dim=-1, keepdim=True)
            if self.preemphasis:
                previous = torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)
                frames = frames - self.preemphasis * previous
        spectrum = torch.fft.rfft(frames * self.window, n=self.n_fft)
        power = spectrum.real.square() + spectrum.imag.square()
        return self.logarithm(power @ self.filters)

    def logarithm(self, energies: Tensor) -> Tensor:
        """Return the logarithm of mel energies (b, f, M) of samples in -1..1."""
        return (energies + self.floor).log()

    def normalised(self, features: Tensor, valid: Tensor | None = None) -> Tensor:
        """Subtract the mean from log-mel energies, as the setting `normalise` says.

        Args:
            features: (B, F, M).
            valid: (B,) frames that count in each row; None: all F.

        Returns:
            (B, F, M), zero on the frames that do not count.
        """
        padding = None
        count: int | Tensor = features.shape[1]
        if valid is not None:
            index = torch.arange(features.shape[1], device=features.device)
            padding = (index >= valid[:, None]).unsqueeze(-1)
            count = valid[:, None, None]
            features = features.masked_fill(padding, 0.0)
        if self.normalise == "none":
            return features
        if self.normalise == "sliding":
            mean = sliding_mean(features, self.context, valid)
        else:
            mean = features.sum(dim=1, keepdim=True) / count
            if self.normalise == "level":
                mean = mean.mean(dim=2, keepdim=True)
        features = features - mean
        if padding is not None:
            features = features.masked_fill(padding, 0.0)
        if self.normalise == "standard":
            variance = features.square().sum(dim=1, keepdim=True) / count
            features = features * (variance + _MIN_VARIANCE).rsqrt()
        return features


def without_mean(waves: Tensor, lengths: Tensor | None) -> Tensor:
    """Return waves (B, T) without the mean of each row's samples, of which `lengths` (B,) count."""
    index = torch.arange(waves.shape[1], device=waves.device)
    size = torch.full((len(waves), 1), waves.shape[1], device=waves.device)
    if lengths is not None:
        size = lengths.to(waves.device)[:, None]
    # In float64, so that a padded row has the mean that it has alone to the last bit but one.
    total = waves.masked_fill(index >= size, 0.0).sum(dim=1, keepdim=True, dtype=torch.float64)
    return waves - (total / size).to(waves.dtype)


def preemphasised(waves: Tensor, coefficient: float) -> Tensor:
    """Return x[t] - coefficient * x[t-1] of waves (B, T); the first sample stays as it is."""
    if not coefficient:
        return waves
    return torch.cat([waves[:, :1], waves[:, 1:] - coefficient * waves[:, :-1]], dim=1)


def sliding_mean(features: Tensor, context: int, valid: Tensor | None = None) -> Tensor:
    """Return the mean over `context` frames around each frame.

    The window is moved inwards at both ends, as Kaldi's apply-cmvn-sliding --center=true does. Sums
    run in float64: float32 would lose the small differences.

    Args:
        features: (B, F, M), zero on padded frames.
        context: frames of the window; an utterance that is shorter is averaged whole.
        valid: (B,) frames that count in each row; None: all F.

    Returns:
        (B, F, M); what it holds on padded frames means nothing.
    """
    batch, frames, bands = features.shape
    size = torch.full((batch, 1), frames, device=features.device)
    if valid is not None:
        size = valid[:, None]
    zeros = features.new_zeros(batch, 1, bands, dtype=torch.float64)
    sums = torch.cat([zeros, features.double().cumsum(dim=1)], dim=1)
    start = torch.arange(frames, device=features.device)[None, :] - context // 2
    start = torch.minimum(start.clamp(min=0), (size - context).clamp(min=0))
    stop = torch.minimum(start + context, size.expand_as(start))
    upper = sums.gather(1, stop.unsqueeze(-1).expand(-1, -1, bands))
    lower = sums.gather(1, start.unsqueeze(-1).expand(-1, -1, bands))
    width = (stop - start).clamp(min=1).unsqueeze(-1)
    return ((upper - lower) / width).float()


PART = LogMel
