"""Augmentation of crops: rooms, noise, babble, channel filters, codecs and gain.

Two steps. `Augment.draw` chooses the parameters of each crop from a numpy generator, cheaply and on
the CPU, so that a crop's augmentation is a pure function of its seed. `Augment.apply` carries a
batch of choices out with batched torch operations wherever the waveforms are: in a loader worker,
or on the GPU.

The order is that of nature: voice and babble, room, microphone, noise, codec, gain, dither. The crop should
come with `context` seconds of real left context, so that its first samples already carry the tail
of what was said before; the context is cut after the convolution.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from speechssl.augment import acoustics, effects
from speechssl.augment import codecs as coders
from speechssl.augment.dither import FULL_SCALE, Dither
from speechssl.augment.draws import DRAW_NAMES, UniformDraws
from speechssl.augment.noise_bank import KINDS, NoiseBank, load_rirs
from speechssl.augment.plan import (
    EQ_KNOTS,
    NO_DITHER,
    NO_NOISE,
    NO_ROOM,
    PLAN,
    SIMULATED_ROOM,
    TAPS,
    Codec,
)
from speechssl.errors import UserError

TABLE_SAMPLES = 1 << 18
"""Places in the table of Gaussian noise from which simulated tails are cut."""


class Level(NamedTuple):
    """How strong an augmentation is.

    Attributes:
        share: factor of every probability, and of the equaliser's range.
        extra_snr: dB added to every SNR.
    """

    share: float
    extra_snr: float


LEVELS = {"full": Level(share=1.0, extra_snr=0.0), "mild": Level(share=0.5, extra_snr=5.0)}


class Augment:
    """Random rooms, noise, babble, channels and codecs for crops.

    Every effect is optional, and all are off at level "none".

    Args:
        sample_rate: sampling rate of the crops, Hz.
        noise: folder of noises (a Kaldi directory, a folder with `utterances.tsv`, or any folder of
            audio); None: no noise.
        rir: folder of room impulse responses, likewise.
        noise_prob: probability of noise from the folder.
        snr: range [lowest, highest] of the SNR of noise, dB.
        snr_music: the same for music.
        snr_speech: the same for speech.
        babble_prob: probability of babble: three to six other utterances of the same batch.
        snr_babble: range of the SNR of babble, dB.
        rir_prob: probability of a room.
        exclusive: give a crop noise from the folder or a room, never both (wespeaker's recipe);
            `noise_prob` and `rir_prob` must then not add up to more than 1.
        simulate_prob: share of the rooms that are simulated (all of them without a folder): early
            reflections and a Gaussian tail that decays exponentially, twice as fast above 2 kHz.
        t60: range of the reverberation time of simulated rooms, seconds.
        rir_seconds: length to which responses are cut; their energy is normalised to 1.
        filter_prob: probability of a channel filter: a smooth random equaliser, as of a microphone.
        filter_db: largest gain or loss of the equaliser, dB.
        band_share: share of the channel filters that limit the band as well (low edge 50-400 Hz,
            high edge 3-8 kHz).
        codec_prob: probability of a codec.
        codecs: the codecs, all equally likely; one that stands twice is twice as likely. Formulas:
            "mu_law", "telephone" (300-3400 Hz and mu-law), "low_pass" (3-7 kHz), "bits" (7 to 11),
            "narrow_band" (through 8 kHz), "g711_mu" and "g711_a" (8 kHz, 8 bits). Libraries, slower:
            "gsm", "g721", "opus", "mp3", and with the extra `av` "amr". Those at 8 kHz need a
            sample_rate of 16000.
        gain: range of the final gain, dB.
        dither: deviation of white Gaussian noise that is added last, to every crop that is augmented
            at all, in steps of 16 bits (1 in Kaldi's and hyperion's front ends; here it is part of
            training, and embeddings are computed without it).
        context: seconds of left context that crops carry for the room's tail.
        speed: speed factors, one drawn for each utterance (all its crops share it: speed moves the
            voice's pitch), e.g. [0.9, 1.0, 1.1]; applied by the data set as it reads. Empty: off.
        seed: of the Gaussian noise for simulated rooms and of the dither.

    Raises:
        UserError: a probability outside 0..1, a range in the wrong order, or a folder without
            audio.
    """

    def __init__(
        self,
        sample_rate: int = 16000,
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
        exclusive: bool = False,
        simulate_prob: float = 0.5,
        t60: list[float] = [0.1, 0.8],  # noqa: B006
        rir_seconds: float = 0.5,
        filter_prob: float = 0.0,
        filter_db: float = 12.0,
        band_share: float = 0.3,
        codec_prob: float = 0.0,
        codecs: list[str] = ["mu_law", "telephone", "low_pass", "bits"],  # noqa: B006
        gain: list[float] = [0.0, 0.0],  # noqa: B006
        dither: float = 0.0,
        context: float = 0.25,
        speed: list[float] = [],  # noqa: B006
        seed: int = 0,
    ) -> None:
        check_probability("noise_prob", noise_prob)
        check_probability("babble_prob", babble_prob)
        check_probability("rir_prob", rir_prob)
        check_probability("simulate_prob", simulate_prob)
        check_probability("filter_prob", filter_prob)
        check_probability("band_share", band_share)
        check_probability("codec_prob", codec_prob)
        check_speed(speed)
        check_dither(dither)
        if exclusive and noise_prob + rir_prob > 1:
            raise UserError(
                f"augment.exclusive: noise_prob={noise_prob:g} and rir_prob={rir_prob:g} must not add"
                " up to more than 1"
            )
        self.sample_rate = sample_rate
        self.noise_prob = noise_prob
        self.snr_of_kind = {
            "noise": check_range("snr", snr),
            "music": check_range("snr_music", snr_music),
            "speech": check_range("snr_speech", snr_speech),
        }
        self.babble_prob = babble_prob
        self.snr_babble = check_range("snr_babble", snr_babble)
        self.rir_prob = rir_prob
        self.exclusive = exclusive
        self.simulate_prob = simulate_prob
        self.t60 = check_range("t60", t60, above=0.0)
        self.filter_prob = filter_prob
        self.filter_db = filter_db
        self.band_share = band_share
        self.codec_prob = codec_prob
        self.codecs = np.array(check_codecs(codecs, sample_rate), dtype=np.int8)
        self.gain = check_range("gain", gain)
        self.dither = Dither(dither, seed)
        self.context_samples = round(context * sample_rate) if rir_prob else 0
        self.speed = tuple(speed)
        self.bank = NoiseBank(noise, sample_rate) if noise and noise_prob else None
        self.noise_samples = None if self.bank is None else self.bank.samples
        recorded = load_rirs(rir, sample_rate, rir_seconds) if rir and rir_prob else None
        response_samples = max(1, round(rir_seconds * sample_rate))
        table = acoustics.tail_table(sample_rate, TABLE_SAMPLES + response_samples, seed)
        self.rooms = effects.Rooms(recorded, table, response_samples, sample_rate)

    def to(self, device: torch.device | str) -> Augment:
        """Move noises and rooms to a device, where `apply` will find the waveforms; return self."""
        self.rooms.to(device)
        self.dither.to(device)
        if self.noise_samples is not None:
            self.noise_samples = self.noise_samples.to(device)
        return self

    def draw(
        self, rng: np.random.Generator, count: int, samples: int, level: str = "full"
    ) -> np.ndarray:
        """Choose the augmentation of crops.

        Args:
            rng: the only source of randomness.
            count: number of crops.
            samples: length of each, context not counted.
            level: "full"; "mild" halves every probability, and the equaliser's range, and raises
                every SNR by 5 dB; "none".

        Returns:
            (count,) of dtype `PLAN`. Plans of many utterances are stacked with numpy.
        """
        plan = np.zeros(count, dtype=PLAN)
        plan["noise"] = NO_NOISE
        plan["rir"] = NO_ROOM
        plan["dither"] = NO_DITHER
        if level == "none":
            return plan
        draws = UniformDraws(rng, count, DRAW_NAMES)
        self._draw_noise(plan, draws, samples, LEVELS[level])
        self._draw_babble(plan, draws, LEVELS[level])
        self._draw_room(plan, draws, LEVELS[level])
        self._draw_filter(plan, draws, LEVELS[level])
        self._draw_codec(plan, draws, LEVELS[level])
        plan["gain"] = draws.between("gain", *self.gain)
        self.dither.draw(plan, draws)
        return plan

    def _draw_noise(
        self, plan: np.ndarray, draws: UniformDraws, samples: int, level: Level
    ) -> None:
        if self.bank is None:
            return
        place, kind = self.bank.pick(
            kind=draws.uniform("noise_kind"),
            file=draws.uniform("noise_file"),
            place=draws.uniform("noise_place"),
            samples=samples,
        )
        wanted = draws.happens("noise", level.share * self.noise_prob)
        plan["noise"] = np.where(wanted, place, NO_NOISE)
        ranges = np.array([self.snr_of_kind[name] for name in KINDS])[kind]
        plan["snr"] = draws.between("snr", ranges[:, 0], ranges[:, 1]) + level.extra_snr

    def _draw_babble(self, plan: np.ndarray, draws: UniformDraws, level: Level) -> None:
        wanted = draws.happens("babble", level.share * self.babble_prob)
        plan["voices"] = np.where(wanted, draws.integers("voices", 3, 7), 0)
        plan["neighbour"] = draws.integers("neighbour", 0, 1000)
        plan["babble_snr"] = draws.between("babble_snr", *self.snr_babble) + level.extra_snr

    def _draw_room(self, plan: np.ndarray, draws: UniformDraws, level: Level) -> None:
        wanted = draws.happens("room", level.share * self.rir_prob)
        if self.exclusive:
            # The number that decides on noise decides on the room as well: noise has the lowest
            # share of 0..1, the room the next.
            of_noise = level.share * self.noise_prob
            number = draws.uniform("noise")
            wanted = (number >= of_noise) & (number < of_noise + level.share * self.rir_prob)
        recorded = self.rooms.recorded
        if recorded is None:
            room = np.full(len(plan), SIMULATED_ROOM)
        else:
            simulate = draws.happens("simulate", self.simulate_prob)
            room = np.where(simulate, SIMULATED_ROOM, draws.integers("response", 0, len(recorded)))
        plan["rir"] = np.where(wanted, room, NO_ROOM)
        plan["t60"] = draws.between("t60", *self.t60)
        plan["drr"] = draws.between("direct_to_reverberant", -3.0, 12.0)
        plan["tail"] = draws.integers("tail", 0, TABLE_SAMPLES)
        taps = draws.uniform("taps").reshape(-1, TAPS, 2)
        plan["taps"][..., 0] = 0.001 + 0.039 * taps[..., 0]  # delay, seconds
        plan["taps"][..., 1] = 2.0 * taps[..., 1] - 1.0  # gain

    def _draw_filter(self, plan: np.ndarray, draws: UniformDraws, level: Level) -> None:
        """Draw an equaliser, which is a tilt plus ripples, and the limits of a band."""
        wanted = draws.happens("filter", level.share * self.filter_prob)
        tilt = draws.between("tilt", -1.0, 1.0)[:, None] * np.linspace(-1.0, 1.0, EQ_KNOTS)
        ripples = 0.7 * draws.between("ripples", -1.0, 1.0)
        eq = np.clip(tilt + ripples, -1.0, 1.0) * (level.share * self.filter_db)
        plan["eq"] = np.where(wanted[:, None], eq, 0.0)
        limited = wanted & draws.happens("band_limited", self.band_share)
        low_edge = 50.0 * 8.0 ** draws.uniform("low_edge")
        high_edge = 3000.0 * (8.0 / 3.0) ** draws.uniform("high_edge")
        plan["band"][:, 0] = np.where(limited, low_edge, 0.0)
        plan["band"][:, 1] = np.where(limited, high_edge, 0.0)

    def _draw_codec(self, plan: np.ndarray, draws: UniformDraws, level: Level) -> None:
        wanted = draws.happens("codec", level.share * self.codec_prob)
        codec = self.codecs[draws.integers("codec_kind", 0, len(self.codecs))]
        plan["codec"] = np.where(wanted, codec, Codec.NONE)
        plan["cutoff"] = draws.between("cutoff", 3000.0, 7000.0)
        plan["bits"] = draws.integers("bits", 7, 12)
        plan["rate"] = draws.uniform("bit_rate")

    def apply(self, waves: Tensor, plan: np.ndarray, context: int = 0) -> Tensor:
        """Carry out a plan.

        Args:
            waves: (..., B, context + T) float32; neighbours along B are different utterances, the
                babble of each other.
            plan: (..., B) of dtype `PLAN`.
            context: samples of left context, cut from the result.

        Returns:
            (..., B, T). Silent crops get nothing but dither (an SNR is undefined there): no value
            is ever made non-finite.
        """
        shape = waves.shape[:-1]
        waves = effects.with_babble(waves, plan, context).reshape(-1, waves.shape[-1])
        plan = plan.reshape(-1)
        waves = effects.in_room_and_channel(waves, plan, context, self.rooms)
        waves = effects.add_noise(waves, plan, self.noise_samples)
        waves = effects.code(waves, plan, self.sample_rate)
        waves = effects.with_gain(waves, plan)
        waves = self.dither.add(waves, plan)
        return waves.reshape(*shape, -1)


def check_probability(name: str, value: float) -> None:
    """Raise UserError if a setting is not between 0 and 1."""
    if not 0.0 <= value <= 1.0:
        raise UserError(f"augment.{name}: must be between 0 and 1, not {value:g}")


def check_range(name: str, pair: list[float], above: float = float("-inf")) -> tuple[float, float]:
    """Return a setting [lowest, highest] as a pair; UserError if it is none or not ``above``."""
    if len(pair) != 2 or pair[0] > pair[1]:
        raise UserError(f"augment.{name}: must be [lowest, highest], not {list(pair)}")
    if pair[0] <= above:
        raise UserError(f"augment.{name}: must be above {above:g}, not {list(pair)}")
    return pair[0], pair[1]


def check_dither(deviation: float) -> None:
    """Raise UserError for a negative deviation, or one as large as full scale."""
    if not 0.0 <= deviation < FULL_SCALE:
        raise UserError(
            f"augment.dither: must be at least 0 and below {FULL_SCALE:g} steps of 16 bits, not"
            f" {deviation:g}"
        )


def check_speed(factors: list[float]) -> None:
    """Raise UserError for a speed factor outside 0.5..2."""
    if any(not 0.5 <= factor <= 2.0 for factor in factors):
        raise UserError(
            f"augment.speed: factors must be between 0.5 and 2, such as [0.9, 1.0, 1.1], not"
            f" {list(factors)}"
        )


def check_codecs(names: list[str], sample_rate: int) -> list[Codec]:
    """Return the codecs of a setting; UserError for an unknown one or one that cannot work here."""
    known = {codec.name.lower(): codec for codec in Codec if codec != Codec.NONE}
    chosen: list[Codec] = []
    for name in names:
        if name not in known:
            raise UserError(f"augment.codecs: unknown {name!r}; known are {', '.join(known)}")
        codec = known[name]
        if codec in effects.AT_8_KHZ and sample_rate != 2 * coders.NARROW_RATE:
            raise UserError(
                f"augment.codecs: {name} needs crops at 16000 Hz, not {sample_rate}; leave it out"
            )
        coders.check_installed(codec)
        chosen.append(codec)
    if not chosen:
        raise UserError("augment.codecs: is empty; name a codec, or set codec_prob to 0")
    return chosen
