"""Generated voices: a corpus of speech-like utterances made from a seed, with no download.

Every speaker (`voice.py`) says nonsense (`phones.py`, `speech.py`) in several sessions,
each in another room (`rooms.py`), in five emotions (`recordings.py`). Rooms are shared between speakers,
so that the recording condition does not name the speaker; training and evaluation share
neither speakers nor rooms. The result is in the public domain: nobody said it. It
serves to try the whole chain and to test it; figures on it say nothing about real
speech.
"""

import contextlib
import io
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

import numpy as np
import soundfile as sf

from speechssl.corpora.synthetic.recordings import (
    Recording,
    Sizes,
    choose_trials,
    plan,
    sex_of,
)
from speechssl.corpora.synthetic.rooms import draw_room, record, visit
from speechssl.corpora.synthetic.source import SAMPLE_RATE
from speechssl.corpora.synthetic.speech import speak
from speechssl.corpora.synthetic.voice import Speaker, draw_speaker, on_a_day
from speechssl.data.manifest import Manifest, Utterance, write_manifest
from speechssl.data.trials import write_trials
from speechssl.errors import UserError
from speechssl.locks import sole_writer_in
from speechssl.processes import end_with_parent, starting_workers
from speechssl.progress import progress
from speechssl.threads import usable_cores

TRAIN_ROOMS = 24
EVAL_ROOMS = 10

# Independent random streams: the second number of a seed (5: `recordings.PLAN`).
SPEAKER = 0
DAY = 1
ROOM = 2
VISIT = 3
UTTERANCE = 4
TRIALS = 6


def prepare(
    root: str | Path,
    out: str | Path,
    *,
    speakers: int = 80,
    evaluation_speakers: int = 20,
    utterances: int = 12,
    sessions: int = 4,
    shortest: float = 3.0,
    longest: float = 6.0,
    trials: int = 4000,
    expression: float = 1.0,
    seed: int = 0,
    jobs: int | None = None,
) -> None:
    """Write generated voices, 16 kHz FLAC files, and Kaldi directories OUT/train and OUT/eval.

    Target trials (OUT/eval/trials) always cross rooms. Labels: utt2emotion, utt2session
    (a speaker's visit to a room).

    Args:
        root: the folder that the audio is written into.
        out: the folder that the Kaldi directories are written into.
        speakers: how many there are in all.
        evaluation_speakers: how many of them go to OUT/eval, and not to OUT/train.
        utterances: recordings of each speaker.
        sessions: rooms in which each speaker is recorded.
        shortest: length of the shortest recordings, in seconds.
        longest: length of the longest recordings, in seconds.
        trials: at most so many pairs, half of them targets.
        expression: how strong emotions are: 0 none, 1 everyday speech, 1.5 acted.
        seed: of all random draws; the files depend on nothing else.
        jobs: processes; all cores if not given.

    Raises:
        UserError: impossible numbers, or a folder that cannot be written.
    """
    if jobs is None:
        jobs = usable_cores()
    sizes = Sizes(utterances, sessions, shortest, longest)
    _check_speakers(speakers, evaluation_speakers)
    _check_sizes(sizes)
    _check_numbers(trials, expression, seed, jobs)
    root = Path(root).resolve()
    out = Path(out)

    train_speakers = range(speakers - evaluation_speakers)
    train_rooms = range(max(TRAIN_ROOMS, sessions))
    train = plan(root, train_speakers, train_rooms, sizes, seed)
    eval_speakers = range(speakers - evaluation_speakers, speakers)
    eval_rooms = range(len(train_rooms), len(train_rooms) + max(EVAL_ROOMS, sessions))
    evaluation = plan(root, eval_speakers, eval_rooms, sizes, seed)
    with _errors_of_writing(root, out):
        out.mkdir(parents=True, exist_ok=True)
        root.mkdir(parents=True, exist_ok=True)
        with sole_writer_in(root):
            _generate([*train, *evaluation], seed, jobs, expression)
        write_manifest(_manifest(train), out / "train")
        write_manifest(_manifest(evaluation), out / "eval", outdated=["trials"])
        pairs = choose_trials(evaluation, trials, np.random.default_rng([seed, TRIALS]))
        write_trials(pairs, out / "eval" / "trials", style="voxceleb")


@contextlib.contextmanager
def _errors_of_writing(root: Path, out: Path) -> Iterator[None]:
    """Turn what the disk and the processes raise inside a `with` block into a UserError."""
    try:
        yield
    except BrokenProcessPool:
        raise UserError(
            "prepare synthetic: a process was killed (out of memory?); take fewer --jobs"
        ) from None
    except OSError as error:
        raise UserError(
            f"cannot write below {root} or {out}: {error}; choose folders you may write to"
        ) from error


def _check_speakers(speakers: int, evaluation_speakers: int) -> None:
    """Raise UserError unless there are speakers to train on, and pairs to evaluate."""
    if evaluation_speakers < 2:
        _refuse(f"evaluation_speakers={evaluation_speakers}: take at least 2")
    if speakers <= evaluation_speakers:
        _refuse(
            f"speakers={speakers} leaves none to train on beside"
            f" evaluation_speakers={evaluation_speakers}: take more speakers or fewer for"
            " evaluation"
        )


def _check_sizes(sizes: Sizes) -> None:
    """Raise UserError for sessions or lengths that cannot be."""
    if sizes.sessions < 2:
        _refuse(f"sessions={sizes.sessions}: target trials cross sessions, take at least 2")
    if sizes.utterances < sizes.sessions:
        _refuse(
            f"utterances={sizes.utterances} a speaker cannot fill sessions={sizes.sessions}: take"
            " more"
        )
    if not sizes.shortest >= 1.0:
        _refuse(f"shortest={sizes.shortest} s: take at least 1 s")
    if not sizes.shortest <= sizes.longest <= 600.0:
        _refuse(f"longest={sizes.longest} s: take shortest={sizes.shortest} s to 600 s")


def _check_numbers(trials: int, expression: float, seed: int, jobs: int) -> None:
    """Raise UserError for numbers that cannot be."""
    if trials < 2:
        _refuse(f"trials={trials}: take at least 2")
    if not 0 <= expression <= 2:
        _refuse(f"expression={expression}: take 0 to 2")
    if seed < 0:
        _refuse(f"seed={seed}: take a number from 0 up")
    if jobs < 1:
        _refuse(f"jobs={jobs}: take at least 1")


def _refuse(problem: str) -> None:
    raise UserError(f"prepare synthetic: {problem}")


def voice_of(speaker: int, seed: int) -> Speaker:
    """Return the voice of a speaker, by number, of the corpus made from `seed`."""
    rng = np.random.default_rng([seed, SPEAKER, speaker])
    return draw_speaker(rng, sex_of(speaker))


def waveform(recording: Recording, seed: int, expression: float = 1.0) -> np.ndarray:
    """Return the samples of one recording, (T,) float32 at 16 kHz.

    Args:
        recording: which one.
        seed: of the corpus.
        expression: how strong emotions are.
    """
    speaker = recording.speaker
    session = recording.session
    voice = voice_of(speaker, seed)
    voice = on_a_day(voice, np.random.default_rng([seed, DAY, speaker, session]))
    room = draw_room(np.random.default_rng([seed, ROOM, recording.room]))
    room = visit(room, np.random.default_rng([seed, VISIT, speaker, session]))
    rng = np.random.default_rng([seed, UTTERANCE, speaker, recording.number])
    strength = expression * float(rng.uniform(0.7, 1.2))
    spoken = speak(voice, recording.emotion, recording.seconds, rng, strength)
    return record(spoken, room, rng)


def _write(recording: Recording, seed: int, expression: float) -> None:
    file = io.BytesIO()  # the disk's errors are then Python's, which say what is wrong
    samples = waveform(recording, seed, expression)
    format = recording.path.suffix[1:].upper()
    sf.write(file, samples, SAMPLE_RATE, subtype="PCM_16", format=format)
    recording.path.write_bytes(file.getbuffer())


def _generate(recordings: Sequence[Recording], seed: int, jobs: int, expression: float) -> None:
    """Write the files of all recordings by `jobs` processes."""
    for folder in sorted({recording.path.parent for recording in recordings}):
        folder.mkdir(parents=True, exist_ok=True)
    write = partial(_write, seed=seed, expression=expression)
    with progress(len(recordings), "generate", "utterances") as done:
        if jobs == 1:
            for recording in recordings:
                write(recording)
                done(1)
            return
        kind = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
        context = multiprocessing.get_context(kind)
        with ProcessPoolExecutor(jobs, context, initializer=end_with_parent) as pool:
            with starting_workers():
                written = pool.map(write, recordings, chunksize=8)
            try:
                for _ in written:
                    done(1)
            except BaseException:
                pool.shutdown(cancel_futures=True)  # else the rest is written first
                raise


def _manifest(recordings: Sequence[Recording]) -> Manifest:
    """Return the manifest of recordings, with speakers, emotions and sessions as labels."""
    utterances = []
    speakers = {}
    emotions = {}
    sessions = {}
    for recording in recordings:
        utterances.append(Utterance(recording.id, str(recording.path), seconds=recording.seconds))
        speakers[recording.id] = recording.speaker_id
        emotions[recording.id] = recording.emotion
        sessions[recording.id] = f"{recording.speaker_id}-{recording.room_id}"
    return Manifest(utterances, {"spk": speakers, "emotion": emotions, "session": sessions})
