"""The acoustics behind augmentation: rooms, channel filters, companding, levels, babble.

Pure functions of tensors; all work on any device, in float32, a batch at a time.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from scipy.fft import next_fast_len
from torch import Tensor

MU = 255.0
"""Of mu-law."""

A = 87.6
"""Of A-law."""

CROSSOVER = 2000.0
"""Hz; above it a simulated tail decays twice as fast."""

LOWEST_KNOT = 60.0
"""Hz, of the equaliser; the highest knot is at half the sampling rate."""


def tail_table(sample_rate: int, samples: int, seed: int) -> Tensor:
    """Return Gaussian noise split at 2 kHz, from which the tails of simulated rooms are cut.

    Args:
        sample_rate: Hz.
        samples: length S of the noise.
        seed: of the noise.

    Returns:
        (2, S) float32: below the crossover, and above it.
    """
    gaussian = np.random.default_rng(seed).standard_normal(samples).astype(np.float32)
    spectrum = torch.fft.rfft(torch.from_numpy(gaussian))
    below = torch.fft.rfftfreq(samples, 1.0 / sample_rate) < CROSSOVER
    low = torch.fft.irfft(spectrum * below, n=samples)
    high = torch.fft.irfft(spectrum * ~below, n=samples)
    return torch.stack([low, high])


def simulated_rooms(
    t60: Tensor,
    drr: Tensor,
    offset: Tensor,
    taps: Tensor,
    table: Tensor,
    samples: int,
    sample_rate: int,
) -> Tensor:
    """Return impulse responses of random rooms.

    A response is a direct path, early reflections and an exponentially decaying tail.

    Args:
        t60: (n,) seconds until the tail has lost 60 dB; half of that above 2 kHz.
        drr: (n,) direct-to-reverberant energy ratio, dB, within the first `samples`.
        offset: (n,) int64, where in the table each tail is cut.
        taps: (n, k, 2) early reflections: delay in seconds, gain in -1..1 relative to the direct
            path.
        table: (2, S) of `tail_table`.
        samples: length L of the responses.
        sample_rate: Hz.

    Returns:
        (n, L); the direct path is 1 at sample 0.
    """
    index = torch.arange(samples, device=table.device)
    decay = torch.exp(-3.0 * math.log(10.0) * (index / sample_rate) / t60[:, None])
    place = offset[:, None] + index
    low = table[0][place]
    high = table[1][place]
    tail = decay * (low + high * decay)
    tail = tail / torch.linalg.vector_norm(tail, dim=-1, keepdim=True)
    last = samples - 1
    delays = (taps[..., 0] * sample_rate).long().clamp(min(1, last), last)
    reflections = 0.3 * taps[..., 1] * decay.gather(1, delays)
    reverberation = tail.scatter_add(1, delays, reflections)
    reverberation[:, 0] = 0.0
    level = 10.0 ** (-drr / 20.0)[:, None]
    norm = torch.linalg.vector_norm(reverberation, dim=-1, keepdim=True).clamp(min=1e-8)
    response: Tensor = reverberation * (level / norm)
    response[:, 0] = 1.0
    return response


def channel_gain(eq: Tensor, band: Tensor, size: int, sample_rate: int) -> Tensor:
    """Return the gain of a channel at the frequencies of a real FFT; its phase is zero.

    Args:
        eq: (n, K) dB at K knots equally spaced in log frequency from 60 Hz to sample_rate / 2,
            linear in between.
        band: (n, 2) Hz, the edges of a fourth-order Butterworth band (3 dB down at the edges); 0 =
            no edge.
        size: samples of the FFT.
        sample_rate: Hz.

    Returns:
        (n, size // 2 + 1).
    """
    frequency, weights = _interpolation(size, eq.shape[1], sample_rate, eq.device)
    gain = torch.exp_((math.log(10.0) / 20.0 * eq) @ weights)
    limited = torch.nonzero((band > 0).any(dim=-1)).flatten()
    if len(limited):
        low, high = band[limited, :, None].unbind(dim=1)
        below = (low / frequency).square_().square_().square_()
        above = (frequency / high).square_().square_().square_()
        above.masked_fill_(high == 0, 0.0)
        gain[limited] *= below.add_(1.0).rsqrt_().mul_(above.add_(1.0).rsqrt_())
    return gain


@lru_cache(maxsize=8)
def _interpolation(
    size: int, knots: int, sample_rate: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return the frequencies (F,) of a real FFT and the weights (K, F) between the knots."""
    frequency = torch.fft.rfftfreq(size, 1.0 / sample_rate, device=device).clamp(min=1e-3)
    span = math.log(sample_rate / 2 / LOWEST_KNOT)
    place = ((frequency / LOWEST_KNOT).log() / span * (knots - 1)).clamp(0.0, knots - 1)
    distance = (place - torch.arange(knots, device=device)[:, None]).abs()
    return frequency, (1.0 - distance).clamp(min=0.0)


def mu_law(waves: Tensor) -> Tensor:
    """Quantise samples in -1..1 to 255 levels of mu-law and back (the curve of ITU-T G.711).

    Silence stays silent.
    """
    scale = math.log1p(MU)
    code = torch.round(torch.log1p(MU * waves.abs()) * (127.0 / scale)) / 127.0
    return torch.sign(waves) * torch.expm1(code * scale) / MU


def a_law(waves: Tensor) -> Tensor:
    """Quantise samples in -1..1 to 256 levels of A-law and back (the curve of ITU-T G.711).

    Each sign has 128 steps of the compressed amplitude, and a sample becomes the middle of its step.
    An exact 0 stays 0, so silence stays silent.
    """
    scale = 1.0 + math.log(A)
    size = waves.abs()
    compressed = torch.where(size < 1.0 / A, A * size, 1.0 + torch.log((A * size).clamp(min=1.0)))
    code = (torch.floor(compressed / scale * 128.0).clamp(max=127.0) + 0.5) / 128.0 * scale
    expanded = torch.where(code < 1.0, code / A, torch.exp(code - 1.0) / A)
    coded: Tensor = torch.sign(waves) * expanded
    return coded


def to_half_rate(waves: Tensor, size: int) -> Tensor:
    """Resample to half the rate, with all above the new Nyquist frequency cut off.

    Args:
        waves: (n, T).
        size: samples of the FFT, a multiple of 4, at least T.

    Returns:
        (n, size / 2).
    """
    spectrum = torch.fft.rfft(waves, n=size)[:, : size // 4 + 1].clone()
    spectrum[:, -1] = 0.0  # half of the new rate
    half: Tensor = torch.fft.irfft(spectrum, n=size // 2) * 0.5
    return half


def to_double_rate(waves: Tensor, samples: int) -> Tensor:
    """Resample (n, size / 2) of `to_half_rate` to the rate before: (n, samples)."""
    size = 2 * waves.shape[-1]
    double: Tensor = torch.fft.irfft(torch.fft.rfft(waves), n=size)[:, :samples] * 2.0
    return double


def fft_length(samples: int) -> int:
    """Return the next length that is fast for an FFT: 64 times a product of small primes.

    MKL and pocketfft were both fast at these.
    """
    return 64 * int(next_fast_len(-(-samples // 64)))


def snr_gain(signal: Tensor, noise: Tensor, snr: Tensor) -> Tensor:
    """Return the factor that puts noise at an SNR.

    Args:
        signal: (n, T).
        noise: (n, T).
        snr: (n,) dB.

    Returns:
        (n, 1) factors for `noise`; 0 where either is silent.
    """
    signal_norm = torch.linalg.vector_norm(signal, dim=-1)
    noise_norm = torch.linalg.vector_norm(noise, dim=-1)
    gain = signal_norm / noise_norm.clamp(min=1e-8) * 10.0 ** (-snr / 20.0)
    return torch.where(noise_norm > 1e-8, gain, 0.0)[:, None]


def babble(waves: Tensor, voices: np.ndarray, neighbour: np.ndarray, block: int) -> Tensor:
    """Return sums of other utterances of the batch, each at equal power.

    Args:
        waves: (..., B, T); rows along B are different utterances.
        voices: (..., B) number of voices wanted for each row, 0 for none; at most the others of its
            block are used.
        neighbour: (..., B) non-negative integers: which of its neighbours come first.
        block: voices come from the same `block` consecutive rows, so that a batch split over ranks
            in multiples of it has the babble of the whole batch.

    Returns:
        (..., B, T), zero where no voice is wanted.
    """
    flat = waves.reshape(-1, *waves.shape[-2:])
    groups, batch = flat.shape[:2]
    voices = voices.reshape(groups, batch)
    neighbour = neighbour.reshape(groups, batch)
    weights = np.zeros((groups, batch, batch), dtype=np.float32)
    for group, row in zip(*np.nonzero(voices), strict=True):
        first = row - row % block
        size = min(block, batch - first)
        for k in range(min(int(voices[group, row]), size - 1)):
            step = 1 + (int(neighbour[group, row]) + k) % (size - 1)
            voice = first + (row - first + step) % size
            weights[group, row, voice] = 1.0
    level = torch.linalg.vector_norm(flat, dim=-1).clamp(min=1e-6)
    mixed: Tensor = (torch.from_numpy(weights).to(flat.device) / level[:, None, :]) @ flat
    return mixed.reshape(waves.shape)
