"""Silence means the same wherever the package asks for it."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl.audio import reading
from speechssl.audio.silence import THRESHOLD, is_silent
from speechssl.corpora.folder import prepare
from speechssl.data.manifest import Manifest, Utterance, write_manifest
from speechssl.data.validation import validate
from speechssl.errors import UserError

STEP = 2**-15


@pytest.mark.parametrize(
    ("low", "high", "silent"),
    [
        (0.0, 0.0, True),
        (0.5, 0.5, True),  # a constant offset
        (-STEP, 2 * STEP, True),  # three steps of 16 bits
        (-2 * STEP, 2 * STEP, False),  # four
        (0.5, 0.5 + 4 * STEP, False),
    ],
)
def test_samples_that_span_three_steps_of_sixteen_bits_are_silent(
    tmp_path: Path, low: float, high: float, silent: bool
) -> None:
    samples = np.full(16000, low, np.float32)
    samples[7000] = high
    assert (high - low < THRESHOLD) == silent
    assert is_silent(samples) == silent

    path = tmp_path / "audio" / "a.wav"
    path.parent.mkdir()
    soundfile.write(path, samples, 16000, subtype="FLOAT")
    content = reading.check(path)
    assert content.is_silent == silent
    assert content.peak == max(abs(low), abs(high))

    write_manifest(Manifest([Utterance("a", str(path), seconds=1.0)]), tmp_path / "data")
    problems = validate(tmp_path / "data", read_audio=True)
    assert any("is silent" in problem for problem in problems) == silent

    for number, options in enumerate(({"check": True}, {"trim": 30.0})):
        out = tmp_path / f"out{number}"
        if silent:
            with pytest.raises(UserError, match="silent: its peak is -?[0-9]+ dBFS"):
                prepare(str(path.parent), str(out), **options)
        else:
            prepare(str(path.parent), str(out), **options)
