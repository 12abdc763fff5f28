"""Voice activity detectors, on signals whose speech is known."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from builders import noise, readme_part

from speechssl import parts
from speechssl.errors import UserError
from speechssl.vad.energy import EnergyDetector, frame_levels
from speechssl.vad.silero import SileroDetector, with_hysteresis
from speechssl.vad.spans import runs_of, speech_spans

RATE = 16000


def test_levels_are_those_of_the_formula() -> None:
    wave = np.concatenate([np.full(RATE, 0.5), np.zeros(RATE)]).astype(np.float32)
    wave[:RATE:2] *= -1  # a square wave of half of full scale: -6.02 dB
    levels = frame_levels([wave[:777], wave[777:]], 160)
    assert levels[10:90] == pytest.approx(np.full(80, 20 * np.log10(0.5)), abs=1e-6)
    assert levels[-1] == -120


@pytest.mark.parametrize("floor", [0.0, 1e-3, 1e-2])
@pytest.mark.parametrize("gain", [1.0, 0.01])
def test_loud_parts_are_found_whatever_the_gain(floor: float, gain: float) -> None:
    wave = floor * noise(9, seed=1)
    for start in (1, 5):
        wave[start * RATE : (start + 2) * RATE] += noise(2, seed=start)
    wave = (gain * wave + 0.01).astype(np.float32)  # with an offset
    found = EnergyDetector().find(np.array_split(wave, 7))
    np.testing.assert_allclose(found, [(1, 3), (5, 7)], atol=0.08)


@pytest.mark.parametrize("wave", [np.zeros(0), np.zeros(RATE), np.full(RATE, 0.3)])
def test_silence_holds_no_speech(wave: np.ndarray) -> None:
    assert EnergyDetector().find([wave.astype(np.float32)]) == []


def test_spans_by_hand() -> None:
    mask = np.array([0, 1, 1, 0, 1, 0, 0, 0, 1, 0], bool)
    assert runs_of(mask) == [(1, 3), (4, 5), (8, 9)]
    found = speech_spans(mask, 0.1, min_silence=0.15, min_speech=0.15, pad=0.05)
    np.testing.assert_allclose(found, [(0.05, 0.55)])


def test_hysteresis_by_hand() -> None:
    values = np.array([0.4, 0.6, 0.4, 0.3, 0.4, 0.6])
    assert with_hysteresis(values, 0.5, 0.35).tolist() == [False, True, True, False, False, True]


def test_silero_knows_generated_speech_from_noise_without_network(voices) -> None:
    pytest.importorskip("silero_vad", reason="needs the extra vad")
    from speechssl.audio import reading
    from speechssl.data.manifest import read_manifest

    spoken = [reading.read(u.path, RATE) for u in read_manifest(voices / "eval").utterances[:4]]
    speech = np.concatenate(spoken)
    silence = np.zeros(3 * RATE, np.float32)
    detector = SileroDetector()
    found = detector.find([silence, speech, silence])
    seconds = sum(stop - start for start, stop in found)
    assert seconds > 0.5 * len(speech) / RATE
    assert found[0][0] > 2.9 and found[-1][1] < 3.1 + len(speech) / RATE
    assert detector.find([silence]) == []
    again = detector.find(np.array_split(np.concatenate([silence, speech, silence]), 5))
    assert again == found  # neither the blocks nor what was heard before matter


def test_without_silero_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"speechssl\[vad\]"):
        SileroDetector()


def test_looking_for_detectors_imports_no_network() -> None:
    program = (
        "import sys; from speechssl.vad import silero; print('torch' in sys.modules,"
        " 'silero_vad' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False"], done.stderr


@pytest.mark.parametrize("name", parts.names("vad"))
def test_settings_that_cannot_be(name: str) -> None:
    with pytest.raises(UserError, match=name):
        parts.build("vad", {"name": name, "min_silence": -1.0})


def test_the_example_of_the_readme() -> None:
    detector = parts.build("vad", {"name": readme_part("vad"), "skip": 0.5})
    assert detector.find([noise(1), noise(1)]) == [(0.5, 2.0)]
    assert detector.find([noise(0.2)]) == []


@pytest.mark.parametrize("name", parts.names("vad"))
def test_blocks_do_not_matter_and_times_lie_in_the_recording(name: str) -> None:
    if name == "silero":
        pytest.importorskip("silero_vad", reason="needs the extra vad")
    wave = np.concatenate([np.zeros(RATE, np.float32), noise(1.3), np.zeros(RATE, np.float32)])
    detector = parts.build("vad", {"name": name})
    whole = detector.find([wave])
    assert detector.find(iter(np.array_split(wave, 11))) == whole
    assert all(0 <= start < stop <= 3.3 + 0.032 for start, stop in whole)
