"""Silero VAD, a small network that tells speech from music and noise; needs the extra `[vad]`.

Its weights lie in the wheel of silero-vad (MIT licence): nothing is downloaded. They are loaded as
TorchScript, without importing that package, which would change the threads of this process.
"""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechssl.errors import UserError
from speechssl.vad.spans import Span, speech_spans

_CHUNK = 512  # samples that the network takes at a time, at 16 kHz


class SileroDetector:
    """Probability of speech of each 32 ms, against a threshold with hysteresis.

    Args:
        threshold: probability at which speech begins; it goes on while the probability is at most
            0.15 below.
        min_silence: shorter pauses, in seconds, are part of the speech around them.
        min_speech: what is shorter, in seconds, is no speech.
        pad: seconds added on both sides.

    Raises:
        UserError: silero-vad is not installed, or a setting that cannot be.
    """

    sample_rate = 16000

    def __init__(
        self,
        *,
        threshold: float = 0.5,
        min_silence: float = 0.5,
        min_speech: float = 0.15,
        pad: float = 0.03,
    ) -> None:
        if not (0 < threshold < 1 and min(min_silence, min_speech, pad) >= 0):
            raise UserError(
                f"silero: threshold={threshold:g}: give a probability between 0 and 1, and seconds"
                " of at least 0"
            )
        self.threshold = threshold
        self.min_silence = min_silence
        self.min_speech = min_speech
        self.pad = pad
        self._network = _load()

    def find(self, blocks: Iterable[NDArray[np.float32]]) -> list[Span]:
        """Return the spans of speech of a recording, given as blocks (T,) at `sample_rate` Hz."""
        return speech_spans(
            with_hysteresis(self.probabilities(blocks), self.threshold, self.threshold - 0.15),
            _CHUNK / self.sample_rate,
            min_silence=self.min_silence,
            min_speech=self.min_speech,
            pad=self.pad,
        )

    def probabilities(self, blocks: Iterable[NDArray[np.float32]]) -> NDArray[np.float64]:
        """Return the probability of speech (F,) of each 32 ms; the last ones are padded."""
        import torch

        self._network.reset_states()
        found: list[float] = []
        rest = np.zeros(0, np.float32)
        with torch.no_grad():
            for block in itertools.chain(blocks, (None,)):
                padding = np.zeros(-len(rest) % _CHUNK, np.float32) if block is None else block
                samples = np.concatenate([rest, padding])
                count = len(samples) // _CHUNK
                for chunk in torch.from_numpy(samples[: count * _CHUNK]).reshape(count, 1, _CHUNK):
                    found.append(float(self._network(chunk, self.sample_rate)))
                rest = samples[count * _CHUNK :]
        return np.array(found)


def with_hysteresis(values: NDArray[np.float64], on: float, off: float) -> NDArray[np.bool_]:
    """Return a mask (F,): True from a value of at least `on` until one is below `off`."""
    mask = np.zeros(len(values), bool)
    is_on = False
    for index, value in enumerate(values.tolist()):
        is_on = value >= (off if is_on else on)
        mask[index] = is_on
    return mask


def _load() -> Any:
    import torch

    spec = importlib.util.find_spec("silero_vad")
    if spec is None or spec.origin is None:
        raise UserError("vad silero needs silero-vad; pip install 'speechssl[vad]', or take energy")
    weights = Path(spec.origin).parent / "data" / "silero_vad.jit"
    try:
        return torch.jit.load(str(weights), map_location="cpu").eval()  # type: ignore[no-untyped-call]
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{weights}: cannot be loaded ({reason}); install silero-vad 5.1 or newer again"
        ) from error


PART = SileroDetector
