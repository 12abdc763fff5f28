"""The acoustics behind augmentation: simulated rooms, channel filters, mu-law, mixing levels,
    babble.

Pure functions of tensors; all work on any device, in float32, a batch at a time.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from scipy.fft import next_fast_len
from torch import Tensor

_MU = 255.0
_CROSSOVER = 2000.0  # Hz; above it a simulated tail decays twice as fast
_LOWEST_KNOT = 60.0  # Hz, of the equaliser; the highest is at half the sampling rate


def tail_table(rate: int, samples: int, seed: int) -> Tensor:
    """Gaussian noise split at 2 kHz, from which the tails of simulated rooms are cut: (2, samples)
    float32, low and high.
    """
    noise = torch.from_numpy(
        np.random.default_rng(seed).standard_normal(samples).astype(np.float32)
    )
    spectrum = torch.fft.rfft(noise)
    low = torch.fft.rfftfreq(samples, 1.0 / rate) < _CROSSOVER
    return torch.stack(
        [torch.fft.irfft(spectrum * low, n=samples), torch.fft.irfft(spectrum * ~low, n=samples)]
    )


def simulated_rooms(
    t60: Tensor, drr: Tensor, offset: Tensor, taps: Tensor, table: Tensor, samples: int, rate: int
) -> Tensor:
    """Impulse responses of random rooms: a direct path, early reflections and an exponentially
        decaying tail.

    Args:
        t60: (n,) seconds until the tail has lost 60 dB; half of that above 2 kHz.
        drr: (n,) direct-to-reverberant energy ratio, dB, within the first `samples`.
        offset: (n,) int64, where in the table each tail is cut.
        taps: (n, k, 2) early reflections: delay in seconds, gain in -1..1 relative to the direct
            path.
        table: (2, S) of `tail_table`.
        samples: length L of the responses.

    Returns:
        (n, L); the direct path is 1 at sample 0.
    """
    time = torch.arange(samples, device=table.device) / rate
    decay = torch.exp(-3.0 * math.log(10.0) * time / t60[:, None])
    place = offset[:, None] + torch.arange(samples, device=table.device)
    rest = decay * (table[0][place] + table[1][place] * decay)
    rest = rest / torch.linalg.vector_norm(rest, dim=-1, keepdim=True)
    delays = (
        (taps[..., 0] * rate).long().clamp(1, samples - 1) if samples > 1 else taps[..., 0].long()
    )
    early = 0.3 * taps[..., 1] * decay.gather(1, delays)
    rest = rest.scatter_add(1, delays, early)
    rest[:, 0] = 0.0
    rest = rest * (
        10.0 ** (-drr / 20.0)[:, None]
        / torch.linalg.vector_norm(rest, dim=-1, keepdim=True).clamp(min=1e-8)
    )
    rest[:, 0] = 1.0
    return rest


def channel_gain(eq: Tensor, band: Tensor, size: int, rate: int) -> Tensor:
    """Gain of a channel at the frequencies of a real FFT of `size` samples: (n, size // 2 + 1),
        zero phase.

    Args:
        eq: (n, K) dB at K knots equally spaced in log frequency from 60 Hz to rate / 2, linear in
            between.
        band: (n, 2) Hz, the edges of a fourth-order Butterworth band (3 dB down at the edges); 0 =
            no edge.
    """
    frequency, weights = _grid(size, eq.shape[1], rate, eq.device)
    gain = torch.exp_((math.log(10.0) / 20.0 * eq) @ weights)
    for row in torch.nonzero((band > 0).any(dim=-1)).flatten().tolist():
        low, high = band[row].tolist()
        gain[row] *= torch.rsqrt(1.0 + (low / frequency).square_().square_().square_())
        if high > 0:
            gain[row] *= torch.rsqrt(1.0 + (frequency / high).square_().square_().square_())
    return gain


@lru_cache(maxsize=8)
def _grid(size: int, knots: int, rate: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Frequencies of a real FFT, and the weights (knots, frequencies) that interpolate between the
    knots.
    """
    frequency = torch.fft.rfftfreq(size, 1.0 / rate, device=device).clamp(min=1e-3)
    span = math.log(rate / 2 / _LOWEST_KNOT)
    place = ((frequency / _LOWEST_KNOT).log() / span * (knots - 1)).clamp(0.0, knots - 1)
    return frequency, (1.0 - (place - torch.arange(knots, device=device)[:, None]).abs()).clamp(
        min=0.0
    )


def mu_law(waves: Tensor) -> Tensor:
    """Quantise samples in -1..1 to 255 levels of mu-law and back (ITU-T G.711's curve, mu = 255);
    silence stays silent.
    """
    scale = math.log1p(_MU)
    code = torch.round(torch.log1p(_MU * waves.abs()) * (127.0 / scale)) / 127.0
    return torch.sign(waves) * torch.expm1(code * scale) / _MU


def fft_length(samples: int) -> int:
    """The next length at which MKL and pocketfft are fast: 64 times a product of small primes."""
    return 64 * int(next_fast_len(-(-samples // 64)))


def snr_gain(signal: Tensor, noise: Tensor, snr: Tensor) -> Tensor:
    """Factor (n, 1) for `noise` (n, T) that puts it `snr` (n,) dB below `signal` (n, T); 0 where
    either is silent.
    """
    loud = torch.linalg.vector_norm(noise, dim=-1)
    gain = torch.linalg.vector_norm(signal, dim=-1) / loud.clamp(min=1e-8) * 10.0 ** (-snr / 20.0)
    return torch.where(loud > 1e-8, gain, 0.0)[:, None]


def babble(waves: Tensor, voices: np.ndarray, neighbour: np.ndarray, block: int) -> Tensor:
    """Sums of other utterances of the batch, each at equal power.

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
    weights = np.zeros((*flat.shape[:2], flat.shape[1]), dtype=np.float32)
    voices, neighbour = voices.reshape(flat.shape[:2]), neighbour.reshape(flat.shape[:2])
    for group, row in zip(*np.nonzero(voices), strict=True):
        first = row - row % block
        size = min(block, flat.shape[1] - first)
        for k in range(min(int(voices[group, row]), size - 1)):
            step = 1 + (int(neighbour[group, row]) + k) % (size - 1)
            weights[group, row, first + (row - first + step) % size] = 1.0
    level = torch.linalg.vector_norm(flat, dim=-1).clamp(min=1e-6)
    mixed = (torch.from_numpy(weights).to(flat.device) / level[:, None, :]) @ flat
    return mixed.reshape(waves.shape)
