"""Windows, speech and channels of long recordings: from the command, from Python, from a stream."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
from builders import make_model, noise

from speechssl.audio import reading
from speechssl.audio.streaming import StreamResampler, blocks
from speechssl.data.manifest import Utterance
from speechssl.data.vectors.files import read_vectors
from speechssl.embed import Embedder, cutting, embed_to_file, speech
from speechssl.embed.cutting import Cutting
from speechssl.embed.windows import window_spans
from speechssl.errors import UserError
from speechssl.vad.energy import EnergyDetector

RATE = 16000


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder(make_model())


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """10.3 s at 22.05 kHz: the level changes, so that no two windows are alike."""
    path = tmp_path_factory.mktemp("long") / "talk.wav"
    samples = noise(10.3, 22050) * np.linspace(0.2, 1, round(10.3 * 22050))
    soundfile.write(path, samples.astype(np.float32), 22050, subtype="FLOAT")
    return path


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        (10.0, [(0, 3), (1.5, 4.5), (3, 6), (4.5, 7.5), (6, 9), (7, 10)]),
        (9.0, [(0, 3), (1.5, 4.5), (3, 6), (4.5, 7.5), (6, 9)]),
        (9.05, [(0, 3), (1.5, 4.5), (3, 6), (4.5, 7.5), (6, 9)]),
        (3.0, [(0, 3)]),
        (0.4, [(0, 0.4)]),
    ],
)
def test_where_windows_lie(stop: float, expected: list[tuple[float, float]]) -> None:
    assert window_spans(0.0, stop, 3.0, 1.5) == expected
    shifted = window_spans(2.0, 2.0 + stop, 3.0, 1.5)
    np.testing.assert_allclose(np.array(shifted) - 2.0, expected, atol=1e-9)


@pytest.mark.parametrize("source", [8000, 16000, 22050, 44101])
def test_a_stream_is_resampled_as_the_whole(source: int, tmp_path: Path) -> None:
    samples = noise(4.0, source)
    path = tmp_path / "a.wav"
    soundfile.write(path, samples, source, subtype="FLOAT")
    whole = reading.read(path, RATE)
    stream = StreamResampler(source, RATE)
    parts = []
    rng = np.random.default_rng(0)
    position = 0
    while position < len(samples):
        size = int(rng.integers(1, source))
        parts.append(stream.feed(samples[position : position + size]))
        position += size
    parts.append(stream.finish())
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-6)
    piece = np.concatenate(list(blocks(path, RATE, 1.2345, 3.1)))
    np.testing.assert_allclose(piece, reading.read(path, RATE, 1.2345, 3.1), atol=1e-6)


def test_windows_of_a_file_an_array_and_a_stream_are_those_pieces(embedder, recording) -> None:
    found = embedder.windows(recording, window=3, hop=1.5)
    spans = window_spans(0.0, 10.3, 3.0, 1.5)
    np.testing.assert_allclose(np.stack([found.starts, found.stops], 1), spans, atol=1e-4)
    alone = [embedder.embed(recording, start=start, stop=stop) for start, stop in spans]
    np.testing.assert_allclose(found.embeddings, alone, atol=1e-4)

    samples, rate = soundfile.read(recording, dtype="float32")
    of_array = embedder.windows(samples, rate, window=3, hop=1.5)
    np.testing.assert_allclose(of_array.embeddings, found.embeddings, atol=1e-4)

    live = embedder.live(rate, window=3, hop=1.5)
    parts = [live.feed(samples[first : first + 7001]) for first in range(0, len(samples), 7001)]
    parts.append(live.finish())
    assert sum(len(part.starts) for part in parts[:-1]) == len(spans) - 1
    streamed = np.concatenate([part.embeddings for part in parts])
    np.testing.assert_allclose(streamed, found.embeddings, atol=1e-4)
    np.testing.assert_allclose(np.concatenate([part.starts for part in parts]), found.starts)
    with pytest.raises(UserError, match="finished"):
        live.feed(samples)


def test_a_stream_takes_what_a_sound_card_gives(embedder) -> None:
    samples = np.random.default_rng(0).integers(-8000, 8000, 2 * RATE).astype(np.int16)
    of_integers = embedder.live(RATE, window=1, hop=0.5).feed(samples)
    of_floats = embedder.live(RATE, window=1, hop=0.5).feed((samples / 32768).astype(np.float32))
    np.testing.assert_array_equal(of_integers.embeddings, of_floats.embeddings)
    live = embedder.live(RATE)
    with pytest.raises(UserError, match="np.frombuffer"):
        live.feed(samples.tobytes())
    with pytest.raises(UserError, match="one channel"):
        live.feed(samples.reshape(-1, 2))


def test_a_span_and_a_channel_in_python(embedder, tmp_path) -> None:
    left = noise(3, seed=1)
    right = noise(3, seed=2)
    path = tmp_path / "call.wav"
    both = np.stack([left, right], axis=1)
    soundfile.write(path, both, RATE, subtype="FLOAT")
    expected = embedder.embed(right[RATE : 2 * RATE], RATE)
    for source in (path, both):
        found = embedder.embed(source, RATE, start=1.0, stop=2.0, channel=2)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        with pytest.raises(UserError, match="no channel 3"):
            embedder.embed(source, RATE, channel=3)
        with pytest.raises(UserError, match="5"):
            embedder.embed(source, RATE, start=5.0)


@pytest.mark.parametrize("ending", [".npz", ".parquet", ".ark"])
def test_the_command_saves_windows_with_their_times(embedder, recording, tmp_path, ending) -> None:
    if ending == ".parquet":
        pytest.importorskip("pyarrow")
    out = tmp_path / f"out{ending}"
    embed_to_file(embedder, [recording], out, window=3.0, hop=1.5)
    ids, vectors = read_vectors(out)
    spans = window_spans(0.0, 10.3, 3.0, 1.5)
    names = [f"talk.wav-{round(a * 1000):08d}-{round(b * 1000):08d}" for a, b in spans]
    assert ids.tolist() == names
    expected = embedder.windows(recording, window=3, hop=1.5).embeddings
    np.testing.assert_allclose(vectors, expected, atol=1e-4)
    if ending == ".npz":
        saved = np.load(out)
        assert saved["recording"].tolist() == ["talk.wav"] * len(spans)
        np.testing.assert_allclose(np.stack([saved["start"], saved["stop"]], 1), spans)
    elif ending == ".parquet":
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(out)
        assert table["recording"].to_pylist() == ["talk.wav"] * len(spans)
        assert table["start"].to_pylist() == pytest.approx([start for start, _ in spans])
    else:
        lines = out.with_suffix(".segments").read_text().splitlines()
        assert lines == [
            f"{name} talk.wav {a:.3f} {b:.3f}" for name, (a, b) in zip(names, spans, strict=True)
        ]


def test_each_channel_is_an_utterance(embedder, tmp_path) -> None:
    left = noise(2, seed=1)
    right = noise(2, seed=2)
    soundfile.write(tmp_path / "call.wav", np.stack([left, right], axis=1), RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "mono.wav", left, RATE, subtype="FLOAT")
    inputs = [tmp_path / "call.wav", tmp_path / "mono.wav"]
    (tmp_path / "notes.wav").write_text("no audio")
    mixed = embed_to_file(embedder, [*inputs, tmp_path / "notes.wav"], tmp_path / "mixed.npz")
    assert mixed is not None
    assert "; 1 of the first 3 recordings have several channels, which were mixed" in str(mixed)
    each = embed_to_file(embedder, inputs, tmp_path / "each.npz", channels="each")
    assert "mixed" not in str(each)
    ids, vectors = read_vectors(tmp_path / "each.npz")
    assert ids.tolist() == ["call.wav-ch1", "call.wav-ch2", "mono.wav"]
    expected = [embedder.embed(wave, RATE) for wave in (left, right, left)]
    np.testing.assert_allclose(vectors, expected, atol=1e-5)

    summary = embed_to_file(embedder, inputs, tmp_path / "second.npz", channels="2")
    assert summary is not None
    ids, vectors = read_vectors(tmp_path / "second.npz")
    assert ids.tolist() == ["call.wav"]
    np.testing.assert_allclose(vectors[0], expected[1], atol=1e-5)
    assert [failure.id for failure in summary.failed] == ["mono.wav"]
    assert "no channel 2" in summary.failed[0].reason


def test_with_vad_only_speech_is_embedded(embedder, tmp_path) -> None:
    loud = noise(2, seed=1)
    quiet = 1e-3 * noise(1.5, seed=2)
    wave = np.concatenate([quiet, loud, quiet, loud, quiet])
    soundfile.write(tmp_path / "a.wav", wave, RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
    out = tmp_path / "speech.npz"
    inputs = [tmp_path / "a.wav", tmp_path / "silent.wav"]
    summary = embed_to_file(embedder, inputs, out, vad="energy")
    assert summary is not None
    assert [failure.reason.split(";")[0] for failure in summary.failed] == ["no speech was found"]
    vector = read_vectors(out)[1][0]
    spans = EnergyDetector().find([wave])
    kept = [wave[round(start * RATE) : round(stop * RATE)] for start, stop in spans]
    np.testing.assert_allclose(vector, embedder.embed(np.concatenate(kept), RATE), atol=1e-5)
    assert np.abs(vector - embedder.embed(wave, RATE)).max() > 1e-3

    embed_to_file(embedder, [tmp_path / "a.wav"], out, vad="energy", window=1.0, hop=0.5)
    saved = np.load(out)
    inside = [(1.5, 3.5), (5.0, 7.0)]
    for start, stop in zip(saved["start"], saved["stop"], strict=True):
        assert any(first - 0.1 <= start and stop <= last + 0.1 for first, last in inside)


def test_speech_is_looked_for_in_several_recordings_at_once(tmp_path, monkeypatch) -> None:
    utterances = []
    for number in range(7):
        wave = np.concatenate([1e-3 * noise(0.5, seed=number), noise(0.5 + 0.1 * number, seed=9)])
        soundfile.write(tmp_path / f"{number}.wav", wave, RATE, subtype="FLOAT")
        utterances.append(Utterance(f"u{number}", str(tmp_path / f"{number}.wav")))
    utterances.insert(3, Utterance("gone", str(tmp_path / "gone.wav")))
    alone = cutting.cut(utterances, Cutting(vad="energy"), readers=1)
    meet = threading.Barrier(2)
    find_speech = cutting.find_speech

    def met(utterance, detector):
        if utterance.id in ("u0", "u1"):
            meet.wait(timeout=20)  # one thread would wait for itself
        return find_speech(utterance, detector)

    monkeypatch.setattr(cutting, "find_speech", met)
    together = cutting.cut(utterances, Cutting(vad="energy"), readers=2)
    assert together == alone
    assert [one.id for one in together.utterances] == [f"u{number}" for number in range(7)]
    assert all(one.speech for one in together.utterances)
    assert [failure.id for failure in together.failures] == ["gone"]


class Waiting:
    """In place of an `Embedder`: embeds a chunk only when somebody looks at a later recording."""

    readers = 1

    def __init__(self) -> None:
        self.looked_at_third = threading.Event()

    def stream(self, utterances, *, done):
        if any(one.id == "u0" for one in utterances):
            assert self.looked_at_third.wait(timeout=20), "nobody looks ahead"
        for index, one in enumerate(utterances):
            yield index, 1.0, np.array([float(one.id[1:])], np.float32)


def test_speech_is_looked_for_while_others_are_embedded(tmp_path, monkeypatch) -> None:
    utterances = []
    for number in range(5):
        soundfile.write(tmp_path / f"{number}.wav", noise(0.5, seed=number), RATE)
        utterances.append(Utterance(f"u{number}", str(tmp_path / f"{number}.wav")))
    embedder = Waiting()
    find_speech = cutting.find_speech

    def watched(utterance, detector):
        if utterance.id == "u2":
            embedder.looked_at_third.set()
        return find_speech(utterance, detector)

    monkeypatch.setattr(cutting, "find_speech", watched)
    monkeypatch.setattr(speech, "CHUNK", 2)
    found = list(speech.stream_speech(embedder, utterances, "energy"))
    assert [(place, float(vector[0])) for place, _, vector in found] == [
        (number, number) for number in range(5)
    ]


def test_chunks_of_speech_change_nothing_and_what_is_done_is_not_looked_at(
    embedder, tmp_path, monkeypatch
) -> None:
    for number in range(7):
        wave = np.concatenate([1e-3 * noise(0.5, seed=number), noise(0.4 + 0.1 * number, seed=9)])
        soundfile.write(tmp_path / f"{number}.wav", wave, RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "3s.wav", np.zeros(RATE), RATE)
    inputs = sorted(tmp_path.glob("*.wav"))
    whole = tmp_path / "whole.npz"
    embed_to_file(embedder, inputs, whole, vad="energy")
    monkeypatch.setattr(speech, "CHUNK", 2)
    summary = embed_to_file(embedder, inputs, tmp_path / "e.npz", vad="energy")
    assert summary is not None and [failure.id for failure in summary.failed] == ["3s.wav"]
    assert read_vectors(tmp_path / "e.npz")[0].tolist() == read_vectors(whole)[0].tolist()
    np.testing.assert_allclose(
        read_vectors(tmp_path / "e.npz")[1], read_vectors(whole)[1], atol=1e-5
    )
    looked_at = []
    find_speech = cutting.find_speech

    def watched(utterance, detector):
        looked_at.append(utterance.id)
        return find_speech(utterance, detector)

    monkeypatch.setattr(cutting, "find_speech", watched)
    embed_to_file(embedder, inputs[:4], tmp_path / "folder", vad="energy")
    looked_at.clear()
    embed_to_file(embedder, inputs, tmp_path / "folder", vad="energy", resume=True)
    assert "0.wav" not in looked_at and "6.wav" in looked_at
    assert set(read_vectors(tmp_path / "folder")[0]) == set(read_vectors(whole)[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channels": "left"}, "give mix, each, first or a number from 1"),
        ({"channels": "0"}, "give mix, each, first or a number from 1"),
        ({"hop": 1.0}, "a hop needs a window"),
        ({"window": 0.01}, "give a window of at least"),
        ({"vad": "nonsense"}, "nonsense"),
    ],
)
def test_cuts_that_cannot_be(embedder, recording, tmp_path, settings, message) -> None:
    with pytest.raises(UserError, match=message):
        embed_to_file(embedder, [recording], tmp_path / "x.npz", **settings)
