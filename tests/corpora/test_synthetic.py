"""Generated voices: what was asked for is what can be measured in the sound, and in the Kaldi
directories.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import librosa
import numpy as np
import pytest
import scipy.signal
import soundfile

from speechssl.corpora.synthetic import source, speech
from speechssl.corpora.synthetic.corpus import prepare, voice_of, waveform
from speechssl.corpora.synthetic.phones import sentence
from speechssl.corpora.synthetic.recordings import Sizes, choose_trials, plan
from speechssl.corpora.synthetic.rooms import NOISES, draw_room, record, visit
from speechssl.corpora.synthetic.source import SAMPLE_RATE as RATE
from speechssl.corpora.synthetic.speech import speak
from speechssl.corpora.synthetic.vocal_tract import resonance
from speechssl.corpora.synthetic.voice import STYLES, Speaker, draw_speaker, on_a_day
from speechssl.data.manifest import read_manifest
from speechssl.data.trials import read_trials
from speechssl.data.validation import validate
from speechssl.errors import UserError

SMALL = {
    "speakers": 5,
    "evaluation_speakers": 2,
    "utterances": 5,
    "sessions": 2,
    "shortest": 1.0,
    "longest": 1.4,
}


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(list(seed))


def pitch(wave: np.ndarray, about: float) -> np.ndarray:
    """f0 in Hz of the louder half of the frames, by the highest peak of the autocorrelation around
    `about`.

    Plain numpy: librosa's YIN is compiled by numba, whose cache breaks when several test processes
        share it.
    """
    frames = np.lib.stride_tricks.sliding_window_view(wave, 1024)[::256].astype(float)
    power = (frames**2).mean(1)
    frames = frames[power > np.median(power)] * np.hanning(1024)
    spectra = np.abs(np.fft.rfft(frames, 2048)) ** 2
    window = np.fft.irfft(np.abs(np.fft.rfft(np.hanning(1024), 2048)) ** 2)
    correlation = np.fft.irfft(spectra) / np.maximum(window, 1e-3 * window[0])
    low, high = int(RATE / (1.9 * about)), int(RATE / (0.6 * about))
    return RATE / (low + correlation[:, low : high + 1].argmax(1))


def decibels(wave: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(wave.astype(float) ** 2)))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic")
    prepare(folder / "audio", folder, **SMALL, jobs=2)
    return folder


@pytest.fixture(scope="module")
def recordings() -> list:
    return plan(Path("/audio"), range(60, 80), range(24, 34), Sizes(), 0)


class TestCorpus:
    def test_the_kaldi_directories_are_valid(self, corpus: Path) -> None:
        for part, speakers in (("train", 3), ("eval", 2)):
            assert validate(corpus / part, read_audio=True) == []
            names = {path.name for path in (corpus / part).iterdir()} - {"trials"}
            assert names == {
                "wav.scp",
                "utt2dur",
                "utt2spk",
                "spk2utt",
                "utt2emotion",
                "utt2session",
            }
            manifest = read_manifest(corpus / part, labels="all")
            assert Counter(manifest.labels["spk"].values()).most_common()[-1][1] == 5
            assert len(set(manifest.labels["spk"].values())) == speakers
            assert len(manifest) == 5 * speakers
            assert Counter(manifest.labels["emotion"].values()) == dict.fromkeys(STYLES, speakers)

    def test_a_killed_run_leaves_no_trials_of_an_earlier_corpus(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        small = {**SMALL, "utterances": 2, "jobs": 1}
        prepare(tmp_path / "audio", tmp_path, **{**small, "speakers": 4})
        assert (tmp_path / "eval/trials").exists()

        def killed(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("speechssl.corpora.synthetic.corpus.write_trials", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare(tmp_path / "audio", tmp_path, **small)
        assert len(read_manifest(tmp_path / "eval")) == 4
        assert not (tmp_path / "eval/trials").exists()

    def test_speakers_and_rooms_are_disjoint(self, corpus: Path) -> None:
        train, test = (
            read_manifest(corpus / part, labels="all").labels for part in ("train", "eval")
        )
        for label in ("spk", "session"):
            assert set(train[label].values()).isdisjoint(test[label].values())
        rooms = [{name.split("-")[1] for name in part["spk"]} for part in (train, test)]
        assert rooms[0].isdisjoint(rooms[1])

    def test_a_session_is_one_speakers(self, tmp_path: Path) -> None:
        prepare(tmp_path / "audio", tmp_path, **{**SMALL, "speakers": 5}, jobs=1)
        labels = read_manifest(tmp_path / "train", labels="all").labels
        speakers_of: dict[str, set[str]] = {}
        rooms: set[str] = set()
        for name, session in labels["session"].items():
            speakers_of.setdefault(session, set()).add(labels["spk"][name])
            rooms.add(name.split("-")[1])
        assert all(len(speakers) == 1 for speakers in speakers_of.values())
        assert len(rooms) < len(speakers_of)  # two speakers met in one room, or this shows nothing

    def test_files_are_16_bit_flac_of_the_stated_length_and_sane_level(self, corpus: Path) -> None:
        for utterance in read_manifest(corpus / "train"):
            info = soundfile.info(utterance.path)
            assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
            assert info.frames / 16000 == pytest.approx(utterance.seconds, abs=1e-3)
            assert 1.0 <= utterance.seconds <= 1.4
            samples, _ = soundfile.read(utterance.path)
            assert 0.02 < np.abs(samples).max() < 0.96
            assert -45 < decibels(samples) < -10

    def test_targets_cross_rooms(self, corpus: Path) -> None:
        trials = read_trials(corpus / "eval" / "trials")
        labels = read_manifest(corpus / "eval", labels="all").labels
        for enrol, test, target in zip(trials.enrol, trials.test, trials.target):
            assert target == (labels["spk"][enrol] == labels["spk"][test])
            assert not target or labels["session"][enrol] != labels["session"][test]
        assert (
            trials.target.sum() == 2 * 2 * 3
        )  # 3 utterances of one room with 2 of the other, 2 speakers

    def test_jobs_do_not_matter_and_the_seed_does(self, corpus: Path, tmp_path: Path) -> None:
        prepare(tmp_path / "audio", tmp_path, **SMALL, jobs=1)
        first = {path.name: path for path in (corpus / "audio").rglob("*.flac")}
        again = {path.name: path for path in (tmp_path / "audio").rglob("*.flac")}
        assert first.keys() == again.keys()
        assert all(first[name].read_bytes() == again[name].read_bytes() for name in first)
        for name in ("eval/trials", "train/utt2emotion", "eval/utt2dur"):
            assert (corpus / name).read_bytes() == (tmp_path / name).read_bytes()
        assert voice_of(0, seed=0).f0 != voice_of(0, seed=1).f0

    @pytest.mark.parametrize(
        ("wrong", "named"),
        [
            ({"speakers": 20}, "speakers=20"),
            ({"evaluation_speakers": 1}, "evaluation_speakers=1"),
            ({"sessions": 1}, "sessions=1"),
            ({"utterances": 3}, "utterances=3"),
            ({"shortest": 0.1}, "shortest=0.1"),
            ({"shortest": float("nan")}, "shortest=nan"),
            ({"longest": 2.0}, "longest=2.0"),
            ({"trials": 0}, "trials=0"),
            ({"expression": 3.0}, "expression=3.0"),
            ({"seed": -1}, "seed=-1"),
            ({"jobs": 0}, "jobs=0"),
        ],
    )
    def test_impossible_numbers_are_refused(self, tmp_path: Path, wrong: dict, named: str) -> None:
        with pytest.raises(UserError, match=named) as caught:
            prepare(tmp_path / "audio", tmp_path, **wrong)
        assert "\n" not in str(caught.value)
        assert not list(tmp_path.iterdir())

    def test_a_folder_that_cannot_be_made_is_one_line(self, tmp_path: Path) -> None:
        (tmp_path / "audio").write_text("a file")
        with pytest.raises(UserError, match="cannot write"):
            prepare(tmp_path / "audio", tmp_path, **SMALL, jobs=1)


class TestPlan:
    def test_defaults_give_a_balanced_list_of_a_few_thousand(self, recordings: list) -> None:
        trials = choose_trials(recordings, 4000, rng(0))
        by_id = {recording.id: recording for recording in recordings}
        pairs = [(by_id[enrol], by_id[test]) for enrol, test in zip(trials.enrol, trials.test)]
        # 4 sessions of 3: 6 pairs of sessions x 9 pairs of utterances x 20 speakers
        assert (trials.target.sum(), len(trials)) == (1080, 2160)
        assert len({tuple(sorted((a.id, b.id))) for a, b in pairs}) == 2160
        others = [pair for pair, target in zip(pairs, trials.target) if not target]
        assert np.mean([a.sex == b.sex for a, b in others]) == pytest.approx(0.5, abs=0.01)
        assert np.mean([a.room == b.room for a, b in others]) == pytest.approx(0.25, abs=0.01)

    def test_the_limit_holds(self, recordings: list) -> None:
        trials = choose_trials(recordings, 100, rng(0))
        assert (len(trials), trials.target.sum()) == (100, 50)

    def test_every_session_has_another_room_and_rooms_are_shared(self, recordings: list) -> None:
        for speaker in range(60, 80):
            rooms = {(r.session, r.room) for r in recordings if r.speaker == speaker}
            assert len(rooms) == 4 == len({room for _, room in rooms})
        assert len({r.room for r in recordings}) == 10

    def test_emotion_says_nothing_of_the_speaker(self, recordings: list) -> None:
        for speaker in range(60, 80):
            counts = Counter(r.emotion for r in recordings if r.speaker == speaker)
            assert set(counts.values()) <= {2, 3} and len(counts) == 5


class TestVoice:
    @pytest.mark.parametrize("f0", [90.0, 130.0, 180.0, 250.0])
    def test_the_pitch_heard_is_the_pitch_asked_for(self, f0: float) -> None:
        voice = replace(draw_speaker(rng(1), "f" if f0 > 150 else "m"), f0=f0)
        assert np.median(pitch(speak(voice, "neutral", 5.0, rng(2)), 1.1 * f0)) == pytest.approx(
            f0, rel=0.06
        )

    def test_formants_move_with_the_vocal_tract(self) -> None:
        """On an axis of log frequency, a tract 1.2 times shorter moves the whole spectrum by log
        1.2.
        """
        base = replace(draw_speaker(rng(3), "m"), hiss=0.0, breath=-5.0, f0=100.0)
        axis = np.exp(np.arange(np.log(900.0), np.log(5000.0), 0.01))
        curves = []
        for scale in (0.95, 0.95 * 1.2):
            wave = speak(replace(base, scale=scale), "neutral", 6.0, rng(4))
            frequency, power = scipy.signal.welch(
                wave, RATE, nperseg=256
            )  # too short to see harmonics
            curves.append(np.gradient(np.log(np.interp(axis, frequency, power))))
        moved = range(5, 40)
        likeness = [np.corrcoef(curves[0][:-lag], curves[1][lag:])[0, 1] for lag in moved]
        assert moved[int(np.argmax(likeness))] * 0.01 == pytest.approx(np.log(1.2), abs=0.04)

    def test_resonators_are_klatts(self) -> None:
        frequency, bandwidth = 500.0, 80.0
        radius = np.exp(-np.pi * bandwidth / RATE)
        b, c = 2 * radius * np.cos(2 * np.pi * frequency / RATE), -(radius**2)
        _, truth = scipy.signal.freqz([1 - b - c], [1, -b, -c], worN=257, include_nyquist=True)
        delay = np.exp(-1j * np.linspace(0, np.pi, 257))
        ours = 1 / resonance(np.array([frequency]), np.array([bandwidth]), delay)[0]
        np.testing.assert_allclose(ours, truth, rtol=2e-3)

    def test_frames_that_are_not_filtered_add_up_to_the_signal(self) -> None:
        wave = rng(5).normal(size=5000).astype(np.float32)
        spectra = speech.spectra(wave, len(wave) // speech.HOP + 2)
        np.testing.assert_allclose(speech.overlap_add(spectra, len(wave)), wave, atol=1e-5)

    def test_pulses_come_at_every_period_with_unit_power(self) -> None:
        steady = replace(draw_speaker(rng(6), "m"), jitter=0.0, shimmer=0.0)
        pulses = source.pulses(steady, np.arange(1, RATE + 1) * 100.0 / RATE, rng(6))
        spectrum = np.abs(np.fft.rfft(pulses))
        harmonics = spectrum[100:4001:100]
        assert harmonics.min() > 100 * np.delete(spectrum, np.arange(0, 8001, 100)).max()
        # band-limited: flat to 6 kHz; a train of impulses sqrt(T0) high, T0 apart, has unit power
        assert np.mean(harmonics) == pytest.approx(np.sqrt(160.0) * 100, rel=0.03)

    @pytest.mark.parametrize("seconds", [1.0, 2.37, 6.0])
    def test_a_sentence_has_exactly_its_length(self, seconds: float) -> None:
        assert sum(s.seconds for s in sentence(rng(7), seconds, 1.1)) == pytest.approx(seconds)
        assert len(speak(draw_speaker(rng(7), "f"), "sad", seconds, rng(7))) == round(
            seconds * RATE
        )

    def test_speech_has_pauses_voice_and_hiss(self) -> None:
        wave = speak(draw_speaker(rng(8), "f"), "neutral", 6.0, rng(8))
        frames = np.abs(librosa.stft(wave, n_fft=512, hop_length=160)) ** 2
        level = 10 * np.log10(frames.sum(0) + 1e-12)
        assert 0.05 < np.mean(level < level.max() - 45) < 0.35
        speech = frames[:, level > level.max() - 45]
        high = speech[96:].sum(0) / speech.sum(0)  # above 3 kHz
        assert 0.03 < np.mean(high > 0.6) < 0.4
        assert np.mean(high < 0.1) > 0.4


class TestEmotions:
    # full, clear voices: a pitch tracker errs on breathy ones with a weak fundamental
    VOICES = [
        replace(
            draw_speaker(rng(9, number), "fmf"[number]), f0_range=2.0, breath=-36.0, glottal=0.9
        )
        for number in range(3)
    ]

    @pytest.fixture(scope="class")
    @classmethod
    def said(cls) -> dict[str, list[np.ndarray]]:
        """The same three speakers in every style, dry."""
        return {
            emotion: [speak(v, emotion, 5.0, rng(10, i)) for i, v in enumerate(cls.VOICES)]
            for emotion in STYLES
        }

    @pytest.mark.parametrize("emotion", [name for name in STYLES if name != "neutral"])
    def test_level_and_pitch_move_as_listed(self, said: dict, emotion: str) -> None:
        style = STYLES[emotion]
        ratios = []
        for speaker, wave, plain in zip(self.VOICES, said[emotion], said["neutral"]):
            assert decibels(wave) - decibels(plain) == pytest.approx(style.level, abs=0.1)
            ratios.append(np.median(pitch(wave, speaker.f0)) / np.median(pitch(plain, speaker.f0)))
        assert np.mean(ratios) == pytest.approx(style.f0, rel=0.07)

    def test_range_and_tilt_are_in_order(self, said: dict) -> None:
        def spread(wave: np.ndarray, voice: Speaker) -> float:
            low, high = np.quantile(np.log(pitch(wave, voice.f0)), [0.15, 0.85])
            return float(high - low)

        def brightness(wave: np.ndarray, voice: Speaker) -> float:
            frequency, power = scipy.signal.welch(wave, RATE, nperseg=1024)
            return float(
                power[(frequency > 1000) & (frequency < 3000)].sum() / power[frequency < 1000].sum()
            )

        for measure in (spread, brightness):
            sad, happy, angry = (
                np.mean([measure(wave, voice) for wave, voice in zip(said[name], self.VOICES)])
                for name in ("sad", "happy", "angry")
            )
            assert sad < happy and sad < angry

    def test_rate_moves_the_number_of_segments(self) -> None:
        def count(emotion: str) -> float:
            rate = STYLES[emotion].rate
            return float(np.mean([len(sentence(rng(11, i), 6.0, rate)) for i in range(20)]))

        assert count("sad") < 0.85 * count("neutral") < 0.85 * 0.9 * count("fearful")

    def test_expression_scales_the_emotion_of_a_recording_and_nothing_else(
        self, recordings: list
    ) -> None:
        angry = next(r for r in recordings if r.emotion == "angry")
        plain = waveform(replace(angry, emotion="neutral"), 0)
        np.testing.assert_array_equal(waveform(angry, 0, 0.0), plain)
        np.testing.assert_array_equal(waveform(angry, 0, 1.0), waveform(angry, 0))
        once, twice = (np.abs(waveform(angry, 0, e) - plain).mean() for e in (1.0, 1.5))
        assert 0 < once < twice

    def test_strength_zero_is_neutral(self) -> None:
        voice = draw_speaker(rng(12), "m")
        plain, none = (speak(voice, name, 1.5, rng(13), 0.0) for name in ("neutral", "angry"))
        np.testing.assert_array_equal(plain, none)


class TestRooms:
    @pytest.mark.parametrize("noise", NOISES)
    def test_signal_to_noise_ratio_and_level(self, noise: str) -> None:
        flat = {"equaliser": np.zeros(12), "low": 1.0, "high": 1e5, "reverberation": -200.0}
        room = replace(draw_room(rng(14)), noise=noise, snr=20.0, level=-3.0, **flat)
        assert decibels(record(np.zeros(RATE * 2), room, rng(15))) == pytest.approx(
            -26 - 20 - 3, abs=0.7
        )
        tone = 10 ** (-26 / 20) * np.sqrt(2) * np.sin(2 * np.pi * 440 * np.arange(RATE * 2) / RATE)
        assert decibels(record(tone, room, rng(15))) == pytest.approx(-29, abs=0.2)

    def test_no_clipping_and_a_reverberant_tail(self) -> None:
        room = replace(draw_room(rng(16)), snr=80.0, reverberation=0.0)
        click = np.zeros(RATE)
        click[4000] = 20.0
        heard = record(click, room, rng(17))
        assert np.abs(heard).max() <= 0.9501
        assert decibels(heard[4200:6000]) > decibels(heard[:3800]) + 20

    def test_a_visit_keeps_the_room(self) -> None:
        room = draw_room(rng(18))
        again = visit(room, rng(19))
        assert again.impulse is room.impulse and again.noise == room.noise
        assert 0 < np.abs(again.equaliser - room.equaliser).max() < 3


def test_a_speaker_stays_the_same_over_the_days() -> None:
    """The spread between speakers is several times that between one speaker's days."""
    speakers = [draw_speaker(rng(20, number), "m") for number in range(40)]

    def spread(values: list[Speaker]) -> np.ndarray:
        return np.std([[np.log(v.f0), np.log(v.scale), np.log(v.tilt)] for v in values], axis=0)

    days = [on_a_day(speakers[0], rng(21, day)) for day in range(40)]
    assert np.all(spread(speakers) > 3 * spread(days))


@pytest.mark.slow
def test_neither_trivial_nor_hopeless() -> None:
    """MFCC statistics tell speakers apart, far from perfectly; emotions show in prosody."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import recall_score, roc_curve
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler, scale

    chosen = plan(Path("/audio"), range(60, 76), range(24, 34), Sizes(10, 4, 3.0, 4.0), 0)
    waves = {recording.id: waveform(recording, 0) for recording in chosen}
    cepstra = [librosa.feature.mfcc(y=wave, sr=RATE, n_mfcc=20) for wave in waves.values()]
    vectors = scale([np.r_[c.mean(1), c.std(1)] for c in cepstra])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    row = {name: number for number, name in enumerate(waves)}
    trials = choose_trials(chosen, 4000, rng(0))
    score = [vectors[row[e]] @ vectors[row[t]] for e, t in zip(trials.enrol, trials.test)]
    false, true, _ = roc_curve(trials.target, score)
    assert 0.05 < false[np.argmin(np.abs(false - (1 - true)))] < 0.3

    features = []
    for recording, wave in zip(chosen, waves.values()):
        heard = np.log(pitch(wave, 205 if recording.sex == "f" else 118))
        rise = np.diff(librosa.feature.rms(y=wave, frame_length=1024, hop_length=256)[0])
        features.append(
            [np.median(heard), heard.std(), decibels(wave), np.abs(rise).mean() / rise.std()]
        )
    emotions = [recording.emotion for recording in chosen]
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    folds = GroupKFold(4).split(features, emotions, [recording.speaker for recording in chosen])
    guessed = cross_val_predict(model, np.array(features), emotions, cv=list(folds))
    assert recall_score(emotions, guessed, average="macro") > 0.3
