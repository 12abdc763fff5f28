"""Effects carried out: a batch of waveforms and its plan to waveforms, on any device.

Each function takes waves (N, T) and a plan (N,) of dtype `plan.PLAN`, one crop a row, unless it
says otherwise. Crops that an effect does not concern stay as they are, bit for bit.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechssl.augment import acoustics, codecs
from speechssl.augment.plan import EQ_KNOTS, NO_NOISE, NO_ROOM, SIMULATED_ROOM, Codec

BABBLE_BLOCK = 8
"""Babble is made of the other utterances of a block of so many neighbours in the batch."""

# Crops convolved at a time: on a CPU their spectra stay in the cache, on a GPU they bound memory.
_CPU_ROWS = 8
_GPU_ROWS = 512

AT_8_KHZ = (
    Codec.NARROW_BAND,
    Codec.G711_MU,
    Codec.G711_A,
    Codec.GSM,
    Codec.G721,
    Codec.AMR,
)
"""Codecs that work at half of 16 kHz."""


class Rooms:
    """Room impulse responses, recorded or simulated.

    Args:
        recorded: (R, L) int16 of `noise_bank.load_rirs`; None: there are none.
        table: Gaussian noise of `acoustics.tail_table` for simulated tails.
        samples: length L of a response.
        sample_rate: Hz.
    """

    def __init__(
        self, recorded: Tensor | None, table: Tensor, samples: int, sample_rate: int
    ) -> None:
        self.recorded = recorded
        self.table = table
        self.samples = samples
        self.sample_rate = sample_rate

    def to(self, device: torch.device | str) -> None:
        """Move the responses to a device."""
        self.table = self.table.to(device)
        if self.recorded is not None:
            self.recorded = self.recorded.to(device)

    def responses(self, plan: np.ndarray) -> Tensor:
        """Return impulse responses (N, L) of unit energy, direct path first."""
        out = self.table.new_zeros(len(plan), self.samples)
        recorded = np.flatnonzero(plan["rir"] >= 0)
        if len(recorded) and self.recorded is not None:
            chosen = to_index(plan["rir"][recorded], out)
            out[to_rows(recorded, out)] = self.recorded[chosen].float()
        simulated = np.flatnonzero(plan["rir"] == SIMULATED_ROOM)
        if len(simulated):
            part = plan[simulated]
            out[to_rows(simulated, out)] = acoustics.simulated_rooms(
                t60=to_tensor(part["t60"], out),
                drr=to_tensor(part["drr"], out),
                offset=to_index(part["tail"], out),
                taps=to_tensor(part["taps"], out),
                table=self.table,
                samples=self.samples,
                sample_rate=self.sample_rate,
            )
        return out.div_(torch.linalg.vector_norm(out, dim=-1, keepdim=True))


def with_babble(waves: Tensor, plan: np.ndarray, context: int) -> Tensor:
    """Add other utterances of the batch.

    Args:
        waves: (..., B, context + T); neighbours along B are different utterances.
        plan: (..., B).
        context: samples that do not count for the level.

    Returns:
        (..., B, context + T).
    """
    if not (plan["voices"] > 0).any():
        return waves
    others = acoustics.babble(waves, plan["voices"], plan["neighbour"], BABBLE_BLOCK)
    samples = waves.shape[-1] - context
    voice = waves[..., context:].reshape(-1, samples)
    babble = others[..., context:].reshape(-1, samples)
    snr = to_tensor(plan["babble_snr"].reshape(-1), waves)
    gain = acoustics.snr_gain(voice, babble, snr)
    return waves + others * gain.reshape(*waves.shape[:-1], 1)


def in_room_and_channel(waves: Tensor, plan: np.ndarray, context: int, rooms: Rooms) -> Tensor:
    """Convolve with a room, filter by a channel, and cut the context, in one FFT round trip.

    Args:
        waves: (N, context + T).
        plan: (N,).
        context: samples of left context.
        rooms: the responses that the plan refers to.

    Returns:
        (N, T), not the same memory as ``waves``.
    """
    filtered = (plan["eq"] != 0).any(-1) | (plan["band"] > 0).any(-1)
    rows = np.flatnonzero((plan["rir"] != NO_ROOM) | filtered)
    if not len(rows):
        return waves[:, context:].clone()
    every_row = len(rows) == len(waves)
    out = torch.empty_like(waves[:, context:]) if every_row else waves[:, context:].clone()
    # The circular wrap of the room's tail may fall on the context, which is cut: the pad is that
    # much shorter.
    size = acoustics.fft_length(waves.shape[1] + max(rooms.samples - context, 1024))
    for chosen in _portions(rows, waves):
        part = plan[chosen]
        index = to_rows(chosen, waves)
        spectrum = torch.fft.rfft(waves[index], n=size)
        _apply_rooms(spectrum, part, size, rooms)
        if filtered[chosen].any():
            eq = to_tensor(part["eq"], waves)
            band = to_tensor(part["band"], waves)
            spectrum *= acoustics.channel_gain(eq, band, size, rooms.sample_rate)
        out[index] = torch.fft.irfft(spectrum, n=size)[:, context : waves.shape[1]]
    return out


def _apply_rooms(spectrum: Tensor, plan: np.ndarray, size: int, rooms: Rooms) -> None:
    """Multiply the spectra (n, size // 2 + 1) of reverberant crops by their rooms', in place."""
    reverberant = np.flatnonzero(plan["rir"] != NO_ROOM)
    if len(reverberant):
        responses = rooms.responses(plan[reverberant])
        spectrum[to_rows(reverberant, spectrum)] *= torch.fft.rfft(responses, n=size)


def add_noise(waves: Tensor, plan: np.ndarray, bank: Tensor | None) -> Tensor:
    """Add noise from the bank (S,) at the SNR of each crop, in place."""
    rows = np.flatnonzero(plan["noise"] != NO_NOISE)
    if bank is None or not len(rows):
        return waves
    index = to_rows(rows, waves)
    stretches = bank.unfold(0, waves.shape[1], 1)
    noise = stretches[to_index(plan["noise"][rows], waves)].float()
    voice = waves[index]
    gain = acoustics.snr_gain(voice, noise, to_tensor(plan["snr"][rows], waves))
    waves[index] = noise.mul_(gain).add_(voice)
    return waves


def code(waves: Tensor, plan: np.ndarray, sample_rate: int) -> Tensor:
    """Pass crops through their codecs (`plan.Codec`), in place.

    Crops are brought to a peak of 1 before they are quantised or coded, and back to their level.
    """
    rows = np.flatnonzero(plan["codec"] != Codec.NONE)
    if not len(rows):
        return waves
    index = to_index(rows, waves)
    part = plan[rows]
    crops = waves[index]
    _limit_band(crops, part, sample_rate)
    peak = crops.abs().amax(dim=-1, keepdim=True).clamp(min=1e-8)
    crops /= peak
    for kinds, effect in _CODED_TOGETHER:
        concerned = np.flatnonzero(np.isin(part["codec"], kinds))
        if len(concerned):
            chosen = to_index(concerned, crops)
            crops[chosen] = effect(crops[chosen], part[concerned])
    _code_one_by_one(crops, part, sample_rate)
    waves[index] = crops * peak
    return waves


def _few_bits(crops: Tensor, plan: np.ndarray) -> Tensor:
    levels = to_tensor(2.0 ** (plan["bits"] - 1.0), crops)[:, None]
    return torch.round(crops * levels) / levels


def _at_half_rate(crops: Tensor, plan: np.ndarray) -> Tensor:
    """Resample to 8 kHz (half of 16 kHz), compand there as the codec says, and resample back."""
    narrow = acoustics.to_half_rate(crops, acoustics.fft_length(crops.shape[1] + 1024))
    for codec, curve in ((Codec.G711_MU, acoustics.mu_law), (Codec.G711_A, acoustics.a_law)):
        concerned = np.flatnonzero(plan["codec"] == codec)
        if len(concerned):
            chosen = to_index(concerned, crops)
            narrow[chosen] = curve(narrow[chosen])
    return acoustics.to_double_rate(narrow, crops.shape[1])


_CODED_TOGETHER = (
    ((Codec.MU_LAW, Codec.TELEPHONE), lambda crops, plan: acoustics.mu_law(crops)),
    ((Codec.BITS,), _few_bits),
    ((Codec.NARROW_BAND, Codec.G711_MU, Codec.G711_A), _at_half_rate),
)
"""Codecs that are formulas, and the function (n, T), plan (n,) -> (n, T) of each."""


def _code_one_by_one(crops: Tensor, plan: np.ndarray, sample_rate: int) -> None:
    """Pass crops through the coders that are libraries, in place; silent ones stay silent."""
    size = acoustics.fft_length(crops.shape[1] + 1024)
    for row in np.flatnonzero(np.isin(plan["codec"], list(codecs.CODERS))).tolist():
        if not crops[row].any():
            continue
        codec = Codec(plan["codec"][row])
        rate = float(plan["rate"][row])
        wave = crops[row : row + 1]
        if codecs.CODERS[codec].sample_rate is None:
            coded = codecs.through(wave[0].cpu().numpy(), codec, sample_rate, rate)
            crops[row] = torch.from_numpy(coded).to(crops.device)
        else:
            narrow = acoustics.to_half_rate(wave, size)
            coded = codecs.through(narrow[0].cpu().numpy(), codec, sample_rate // 2, rate)
            back = torch.from_numpy(coded).to(crops.device)
            crops[row] = acoustics.to_double_rate(back[None], crops.shape[1])[0]


def _limit_band(crops: Tensor, plan: np.ndarray, sample_rate: int) -> None:
    """Limit crops to the band of a telephone, or to frequencies below their cutoff, in place."""
    telephone = plan["codec"] == Codec.TELEPHONE
    rows = np.flatnonzero(telephone | (plan["codec"] == Codec.LOW_PASS))
    if not len(rows):
        return
    size = acoustics.fft_length(crops.shape[1] + 1024)
    for chosen in _portions(rows, crops):
        low = np.where(telephone[chosen], 300.0, 0.0)
        high = np.where(telephone[chosen], 3400.0, plan["cutoff"][chosen])
        band = to_tensor(np.stack([low, high], axis=-1), crops)
        flat = crops.new_zeros(len(chosen), EQ_KNOTS)
        index = to_index(chosen, crops)
        spectrum = torch.fft.rfft(crops[index], n=size)
        spectrum *= acoustics.channel_gain(flat, band, size, sample_rate)
        crops[index] = torch.fft.irfft(spectrum, n=size)[:, : crops.shape[1]]


def _portions(rows: NDArray[np.intp], like: Tensor) -> list[NDArray[np.intp]]:
    """Split the rows of a batch into as many at a time as the device of ``like`` takes best."""
    at_once = _CPU_ROWS if like.device.type == "cpu" else _GPU_ROWS
    return np.split(rows, range(at_once, len(rows), at_once))


def with_gain(waves: Tensor, plan: np.ndarray) -> Tensor:
    """Scale each crop by its gain."""
    if not plan["gain"].any():
        return waves
    factor = to_tensor(10.0 ** (plan["gain"] / 20.0), waves)
    return waves * factor[:, None]


def to_tensor(values: np.ndarray, like: Tensor) -> Tensor:
    """Return numbers in float32 on the device of ``like``."""
    return torch.from_numpy(np.array(values, dtype=np.float32)).to(like.device)


def to_index(values: np.ndarray, like: Tensor) -> Tensor:
    """Return integers as an index on the device of ``like``."""
    return torch.from_numpy(np.array(values, dtype=np.int64)).to(like.device)


def to_rows(rows: NDArray[np.intp], like: Tensor) -> Tensor | slice:
    """Return ascending rows as a slice if they are consecutive (it copies nothing), or an index."""
    first = int(rows[0])
    last = int(rows[-1])
    if last - first + 1 == len(rows):
        return slice(first, last + 1)
    return to_index(rows, like)
