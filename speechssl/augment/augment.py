"""Augmentation of crops: rooms, noise, babble, channel filters, codecs, gain; and SpecAugment on
    features.

Two steps. `Augment.draw` chooses the parameters of each crop from a numpy generator, cheaply and on
the CPU, so that a crop's augmentation is a pure function of its seed. `Augment.apply` carries a
batch of choices out with batched torch operations wherever the waveforms are: in a loader worker,
or on the GPU.

The order is that of nature: voice and babble, room, microphone, noise, codec, gain. Room and
channel filter share one FFT round trip. The crop should come with `context` seconds of real left
context, so that its first samples already carry the tail of what was said before; the context is
cut after the convolution.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from speechssl.augment import acoustics
from speechssl.augment.noise_bank import KINDS, NoiseBank, load_rirs
from speechssl.errors import UserError

BLOCK = 8  # babble is made of the other utterances of a block of this many neighbours in the batch
_KNOTS = 8  # of the random equaliser, equally spaced in log frequency
_TAPS = 6  # early reflections of a simulated room
_TABLE = 1 << 18  # samples of the Gaussian noise from which simulated tails are cut
_MILD_SNR = 5.0  # dB added to every SNR at level "mild"
_SIMULATED = -2
_CODECS = ("none", "mu-law", "telephone", "low-pass", "bits")

# What `draw` chooses for one crop. `noise` is a place in the noise bank and `rir` a row of the
# responses (-1: none, -2: simulated); `t60` in seconds; `snr`, `drr`, `eq`, `gain` in dB; `band`,
# `cutoff` in Hz.
PLAN = np.dtype(
    [
        ("noise", np.int64), ("snr", np.float32),
        ("voices", np.int8), ("neighbour", np.int16), ("babble_snr", np.float32),
        ("rir", np.int32), ("t60", np.float32), ("drr", np.float32), ("tail", np.int32),
        ("taps", np.float32, (_TAPS, 2)),
        ("eq", np.float32, (_KNOTS,)), ("band", np.float32, (2,)),
        ("codec", np.int8), ("cutoff", np.float32), ("bits", np.int8),
        ("gain", np.float32),
    ]
)  # fmt: skip


class Augment:
    """Random rooms, noise, channels and codecs for crops. Every part is optional; all is off at
    level "none".

    Args:
        rate: sampling rate of the crops, Hz.
        noise: folder of noises (a Kaldi directory, a folder with `utterances.tsv`, or any folder of
            audio); None: none.
        rir: folder of room impulse responses, likewise.
        noise_prob: probability of noise from the folder.
        snr, snr_music, snr_speech: ranges [lowest, highest] of the SNR in dB for each kind of
            noise.
        babble_prob: probability of babble: three to six other utterances of the same batch, at
            `snr_babble` dB.
        rir_prob: probability of a room. Its responses are cut to `rir_seconds` and normalised to
            unit energy.
        simulate_prob: of the rooms, the share that is simulated (all of them without a folder):
            early reflections and Gaussian tails that decay exponentially, twice as fast above 2
            kHz, with T60 within `t60` seconds.
        filter_prob: probability of a channel filter: a smooth random equaliser within
            +-`filter_db`; with probability 0.3 it is limited to a band as well (low edge 50-400 Hz,
            high edge 3-8 kHz).
        codec_prob: probability of a codec: mu-law, telephone (300-3400 Hz and mu-law), low-pass or
            few bits.
        gain: range of the final gain, dB.
        context: seconds of left context that crops carry for the room's tail.
        speed: speed factors, one drawn for each utterance (all its crops share it: speed moves the
            voice's pitch), e.g. [0.9, 1.0, 1.1]; applied by the data set as it reads. Empty: off.
        seed: of the noise table for simulated rooms.

    Raises:
        UserError: a probability outside 0..1, a range in the wrong order, or a folder without
            audio.
    """

    def __init__(
        self,
        rate: int = 16000,
        *,
        noise: str | None = None,
        rir: str | None = None,
        noise_prob: float = 0.7,
        snr: list[float] = [0.0, 15.0],  # noqa: B006 (never changed)
        snr_music: list[float] = [5.0, 15.0],  # noqa: B006
        snr_speech: list[float] = [13.0, 20.0],  # noqa: B006
        babble_prob: float = 0.0,
        snr_babble: list[float] = [13.0, 20.0],  # noqa: B006
        rir_prob: float = 0.45,
        simulate_prob: float = 0.5,
        t60: list[float] = [0.1, 0.8],  # noqa: B006
        rir_seconds: float = 0.5,
        filter_prob: float = 0.0,
        filter_db: float = 12.0,
        codec_prob: float = 0.0,
        gain: list[float] = [0.0, 0.0],  # noqa: B006
        context: float = 0.25,
        speed: list[float] = [],  # noqa: B006
        seed: int = 0,
    ) -> None:
        self.probs = {
            "noise": noise_prob,
            "babble": babble_prob,
            "rir": rir_prob,
            "simulate": simulate_prob,
        }
        self.probs |= {"filter": filter_prob, "codec": codec_prob}
        self.ranges = {
            "snr": snr,
            "snr_music": snr_music,
            "snr_speech": snr_speech,
            "snr_babble": snr_babble,
        }
        self.ranges |= {"t60": t60, "gain": gain}
        _check(self.probs, self.ranges, speed)
        self.rate, self.filter_db, self.speed = rate, filter_db, tuple(speed)
        self.bank = NoiseBank(noise, rate) if noise and noise_prob else None
        self.tail_samples = max(1, round(rir_seconds * rate))
        self.context_samples = round(context * rate) if rir_prob else 0
        tensors = {"table": acoustics.tail_table(rate, _TABLE + self.tail_samples, seed)}
        if self.bank is not None:
            tensors["noise"] = self.bank.samples
        if rir and rir_prob:
            tensors["rir"] = load_rirs(rir, rate, rir_seconds)
        self._tensors = tensors

    def to(self, device: torch.device | str) -> Augment:
        """Move the banks to a device; `apply` needs them where the waveforms are. Returns
        itself.
        """
        self._tensors = {name: tensor.to(device) for name, tensor in self._tensors.items()}
        return self

    def draw(
        self, rng: np.random.Generator, count: int, samples: int, level: str = "full"
    ) -> np.ndarray:
        """Choose the augmentation of `count` crops of `samples`, context not counted.

        Args:
            rng: the only source of randomness.
            level: "full"; "mild" halves every probability, and the equaliser's range, and raises
                every SNR by 5 dB; "none".

        Returns:
            (count,) of dtype `PLAN`. Plans of many utterances are stacked with numpy.
        """
        plan = np.zeros(count, dtype=PLAN)
        plan["noise"] = plan["rir"] = -1
        if level == "none":
            return plan
        half = 0.5 if level == "mild" else 1.0
        easier = _MILD_SNR if level == "mild" else 0.0
        u = rng.random((count, 27 + _KNOTS + 2 * _TAPS))
        on = {
            name: u[:, column] < half * prob
            for column, (name, prob) in enumerate(self.probs.items())
        }
        if self.bank is not None:
            place, kind = self.bank.pick(u[:, 6:9], samples)
            ranges = np.array(
                [self.ranges["snr" if name == "noise" else f"snr_{name}"] for name in KINDS]
            )[kind]
            plan["noise"] = np.where(on["noise"], place, -1)
            plan["snr"] = ranges[:, 0] + u[:, 9] * (ranges[:, 1] - ranges[:, 0]) + easier
        plan["voices"] = np.where(on["babble"], 3 + (u[:, 10] * 4).astype(int), 0)
        plan["neighbour"] = (u[:, 11] * 1000).astype(int)
        plan["babble_snr"] = self._between("snr_babble", u[:, 12]) + easier
        responses = len(self._tensors.get("rir", ()))
        real = u[:, 3] >= (self.probs["simulate"] if responses else 1.0)
        plan["rir"] = np.where(
            on["rir"], np.where(real, (u[:, 13] * responses).astype(int), _SIMULATED), -1
        )
        plan["t60"] = self._between("t60", u[:, 14])
        plan["drr"] = -3.0 + 15.0 * u[:, 15]
        plan["tail"] = (u[:, 16] * _TABLE).astype(int)
        taps = u[:, 27 + _KNOTS :].reshape(count, _TAPS, 2)
        plan["taps"] = np.stack([0.001 + 0.039 * taps[..., 0], 2.0 * taps[..., 1] - 1.0], axis=-1)
        self._draw_channel(plan, on["filter"], on["codec"], u, half)
        plan["gain"] = self._between("gain", u[:, 25])
        return plan

    def _draw_channel(
        self, plan: np.ndarray, filtered: np.ndarray, coded: np.ndarray, u: np.ndarray, half: float
    ) -> None:
        """Equaliser (a tilt plus ripples), band limits and codec."""
        limit = half * self.filter_db
        tilt = (2.0 * u[:, 17, None] - 1.0) * np.linspace(-1.0, 1.0, _KNOTS)
        eq = np.clip(tilt + 0.7 * (2.0 * u[:, 27 : 27 + _KNOTS] - 1.0), -1.0, 1.0) * limit
        plan["eq"] = np.where(filtered[:, None], eq, 0.0)
        limited = filtered & (u[:, 18] < 0.3)
        plan["band"][:, 0] = np.where(limited, 50.0 * 8.0 ** u[:, 19], 0.0)
        plan["band"][:, 1] = np.where(limited, 3000.0 * (8.0 / 3.0) ** u[:, 20], 0.0)
        plan["codec"] = np.where(coded, 1 + (u[:, 21] * (len(_CODECS) - 1)).astype(int), 0)
        plan["cutoff"] = 3000.0 + 4000.0 * u[:, 22]
        plan["bits"] = 7 + (u[:, 23] * 5).astype(int)

    def _between(self, name: str, uniform: np.ndarray) -> np.ndarray:
        low, high = self.ranges[name]
        return low + uniform * (high - low)

    def apply(self, waves: Tensor, plan: np.ndarray, context: int = 0) -> Tensor:
        """Carry out the plan.

        Args:
            waves: (..., B, context + T) float32; neighbours along B are different utterances, the
                babble of each other.
            plan: (..., B) of dtype `PLAN`.
            context: samples of left context, cut from the result.

        Returns:
            (..., B, T). Silent crops stay silent (an SNR is undefined there): no value is ever made
            non-finite.
        """
        if bool((plan["voices"] > 0).any()):
            waves = self._with_babble(waves, plan, context)
        shape = waves.shape[:-1]
        waves, plan = waves.reshape(-1, waves.shape[-1]), plan.reshape(-1)
        waves = self._convolve(waves, plan, context)
        waves = self._with_noise(waves, plan)
        waves = self._coded(waves, plan)
        if plan["gain"].any():
            waves = waves * _column(10.0 ** (plan["gain"] / 20.0), waves)
        return waves.reshape(*shape, -1)

    def _with_babble(self, waves: Tensor, plan: np.ndarray, context: int) -> Tensor:
        others = acoustics.babble(waves, plan["voices"], plan["neighbour"], BLOCK)
        voice, noise = (
            x[..., context:].reshape(-1, x.shape[-1] - context) for x in (waves, others)
        )
        gain = acoustics.snr_gain(voice, noise, _tensor(plan["babble_snr"].reshape(-1), waves))
        return waves + others * gain.reshape(*waves.shape[:-1], 1)

    def _convolve(self, waves: Tensor, plan: np.ndarray, context: int) -> Tensor:
        """Room and channel filter in one FFT round trip, a few crops at a time; (N, context + T) to
        (N, T).
        """
        shaped = (plan["eq"] != 0).any(-1) | (plan["band"] > 0).any(-1)
        rows = np.flatnonzero((plan["rir"] != -1) | shaped)
        if not len(rows):
            return waves[:, context:].clone()
        every = len(rows) == len(waves)
        out = torch.empty_like(waves[:, context:]) if every else waves[:, context:].clone()
        # The circular wrap of the room's tail may fall on the context, which is cut: the pad is
        # that much shorter.
        size = acoustics.fft_length(waves.shape[1] + max(self.tail_samples - context, 1024))
        at_once = 8 if waves.device.type == "cpu" else 512
        for chosen in np.split(rows, range(at_once, len(rows), at_once)):
            part, index = plan[chosen], _rows(chosen, waves)
            spectrum = torch.fft.rfft(waves[index], n=size)
            rooms = np.flatnonzero(part["rir"] != -1)
            if len(rooms):
                spectrum[_rows(rooms, waves)] *= torch.fft.rfft(
                    self._responses(part[rooms]), n=size
                )
            if shaped[chosen].any():
                spectrum *= self._channel(part["eq"], part["band"], size, waves)
            out[index] = torch.fft.irfft(spectrum, n=size)[:, context : waves.shape[1]]
        return out

    def _channel(self, eq: np.ndarray, band: np.ndarray, size: int, like: Tensor) -> Tensor:
        return acoustics.channel_gain(_tensor(eq, like), _tensor(band, like), size, self.rate)

    def _responses(self, plan: np.ndarray) -> Tensor:
        """(n, L) impulse responses of unit energy, direct path first."""
        table = self._tensors["table"]
        out = table.new_zeros(len(plan), self.tail_samples)
        real, made = np.flatnonzero(plan["rir"] >= 0), np.flatnonzero(plan["rir"] == _SIMULATED)
        if len(real):
            out[_rows(real, out)] = self._tensors["rir"][_index(plan["rir"][real], out)].float()
        if len(made):
            part = plan[made]
            t60, drr, taps = (
                _tensor(part["t60"], out),
                _tensor(part["drr"], out),
                _tensor(part["taps"], out),
            )
            out[_rows(made, out)] = acoustics.simulated_rooms(
                t60, drr, _index(part["tail"], out), taps, table, self.tail_samples, self.rate
            )
        return out.div_(torch.linalg.vector_norm(out, dim=-1, keepdim=True))

    def _with_noise(self, waves: Tensor, plan: np.ndarray) -> Tensor:
        rows = np.flatnonzero(plan["noise"] >= 0)
        if not len(rows):
            return waves
        index = _rows(rows, waves)
        stretches = self._tensors["noise"].unfold(0, waves.shape[1], 1)
        noise = stretches[_index(plan["noise"][rows], waves)].float()
        voice = waves[index]
        gain = acoustics.snr_gain(voice, noise, _tensor(plan["snr"][rows], waves))
        waves[index] = noise.mul_(gain).add_(voice)
        return waves

    def _coded(self, waves: Tensor, plan: np.ndarray) -> Tensor:
        rows = np.flatnonzero(plan["codec"] > 0)
        if not len(rows):
            return waves
        index, part = _index(rows, waves), plan[rows]
        crops = waves[index]
        telephone, low_pass = part["codec"] == 2, part["codec"] == 3
        narrow = np.flatnonzero(telephone | low_pass)
        if len(narrow):
            low = np.where(telephone[narrow], 300.0, 0.0)
            band = np.stack(
                [low, np.where(telephone[narrow], 3400.0, part["cutoff"][narrow])], axis=-1
            )
            size = acoustics.fft_length(crops.shape[1] + 1024)
            spectrum = torch.fft.rfft(crops[_index(narrow, crops)], n=size)
            spectrum *= self._channel(np.zeros((len(narrow), 2)), band, size, crops)
            crops[_index(narrow, crops)] = torch.fft.irfft(spectrum, n=size)[:, : crops.shape[1]]
        peak = crops.abs().amax(dim=-1, keepdim=True).clamp(min=1e-8)
        law, bits = (
            np.flatnonzero((part["codec"] == 1) | telephone),
            np.flatnonzero(part["codec"] == 4),
        )
        if len(law):
            chosen = _index(law, crops)
            crops[chosen] = acoustics.mu_law(crops[chosen] / peak[chosen]) * peak[chosen]
        if len(bits):
            chosen = _index(bits, crops)
            step = peak[chosen] / _column(2.0 ** (part["bits"][bits] - 1.0), crops)
            crops[chosen] = torch.round(crops[chosen] / step) * step
        waves[index] = crops
        return waves


class SpecAugment:
    """Masks in time and frequency on normalised features (Park et al. 2019): masked values become
    0, the band's mean.

    Args:
        time_masks, time_width: number of masks over frames, and the widest, frames. Widths are
            uniform in 0..widest.
        freq_masks, freq_width: number of masks over bands, and the widest, bands.
    """

    def __init__(
        self, *, time_masks: int = 0, time_width: int = 20, freq_masks: int = 0, freq_width: int = 8
    ) -> None:
        if min(time_masks, time_width, freq_masks, freq_width) < 0:
            raise UserError("specaugment: the numbers and widths of masks cannot be negative")
        self.time_masks, self.time_width = time_masks, time_width
        self.freq_masks, self.freq_width = freq_masks, freq_width

    def __call__(
        self,
        features: Tensor,
        generator: torch.Generator | None = None,
        rows: Tensor | None = None,
        total: int | None = None,
    ) -> Tensor:
        """Mask (B, F, M) features, each utterance on its own.

        Where B is one process's part of a larger batch, ``rows`` (B,) says which of its ``total``
        utterances these are: all processes draw the masks of all, so that each utterance has the
        same ones however many processes there are.
        """
        batch, frames, mels = features.shape
        chosen = torch.arange(batch) if rows is None else rows
        count = batch if total is None else total
        if self.time_masks:
            masked = _stripes(count, frames, self.time_masks, self.time_width, generator)
            masked = masked[chosen.to(masked.device)].to(features.device)
            features = features.masked_fill(masked.unsqueeze(2), 0.0)
        if self.freq_masks:
            masked = _stripes(count, mels, self.freq_masks, self.freq_width, generator)
            masked = masked[chosen.to(masked.device)].to(features.device)
            features = features.masked_fill(masked.unsqueeze(1), 0.0)
        return features


def _stripes(
    batch: int, size: int, masks: int, width: int, generator: torch.Generator | None
) -> Tensor:
    """(batch, size) bool: the union of `masks` random stripes, drawn on the generator's device."""
    device = generator.device if generator is not None else torch.device("cpu")
    draws = torch.rand(2, batch, masks, 1, generator=generator, device=device)
    widths = (draws[0] * (min(width, size) + 1)).long()
    starts = (draws[1] * (size - widths + 1)).long()
    place = torch.arange(size, device=device)
    return ((place >= starts) & (place < starts + widths)).any(dim=1)


def _column(values: np.ndarray, like: Tensor) -> Tensor:
    return _tensor(values, like)[:, None]


def _tensor(values: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float32)).to(like.device)


def _index(values: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(np.array(values, dtype=np.int64)).to(like.device)


def _rows(rows: np.ndarray, like: Tensor) -> Tensor | slice:
    """Rows (ascending) as a slice where they are neighbours, which copies nothing, else as an
    index.
    """
    if rows[-1] - rows[0] + 1 == len(rows):
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return _index(rows, like)


def _check(probs: dict[str, float], ranges: dict[str, list[float]], speed: list[float]) -> None:
    for name, value in probs.items():
        if not 0.0 <= value <= 1.0:
            raise UserError(
                f"augment.{name}_prob: {value:g} is no probability; give a number from 0 to 1"
            )
    for name, pair in ranges.items():
        if len(pair) != 2 or pair[0] > pair[1] or (name == "t60" and pair[0] <= 0):
            raise UserError(f"augment.{name}: {list(pair)} is no range; give [lowest, highest]")
    if any(not 0.5 <= factor <= 2.0 for factor in speed):
        raise UserError(
            f"augment.speed: {list(speed)}: factors must lie in 0.5..2, e.g. [0.9, 1.0, 1.1]"
        )
