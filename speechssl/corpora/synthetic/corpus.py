"""Generated voices: a corpus of speech-like utterances made from a seed, with no download.

Every speaker (`voice.py`) says nonsense (`phones.py`, `speech.py`) in several sessions,
each in another room (`rooms.py`), in five emotions. Rooms are shared between speakers,
so that the recording condition does not name the speaker; training and evaluation share
neither speakers nor rooms. The result is in the public domain: nobody said it. It
serves to try the whole chain and to test it; figures on it say nothing about real
speech.
"""

import contextlib
import io
import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import soundfile as sf

from speechssl.corpora.synthetic.rooms import draw_room, record, visit
from speechssl.corpora.synthetic.source import SAMPLE_RATE
from speechssl.corpora.synthetic.speech import speak
from speechssl.corpora.synthetic.voice import STYLES, Speaker, draw_speaker, on_a_day
from speechssl.data.manifest import Manifest, Utterance, write_manifest
from speechssl.data.trials import Trials, write_trials
from speechssl.errors import UserError
from speechssl.processes import end_with_parent, sole_writer_in, starting_workers
from speechssl.progress import progress
from speechssl.threads import usable_cores

TRAIN_ROOMS = 24
EVAL_ROOMS = 10

# Independent random streams: the second number of a seed.
SPEAKER = 0
DAY = 1
ROOM = 2
VISIT = 3
UTTERANCE = 4
PLAN = 5
TRIALS = 6


@dataclass(frozen=True, slots=True)
class Recording:
    """One utterance to generate: who, where, when and how.

    Attributes:
        id: of the utterance.
        path: the file to write.
        speaker: number of the speaker.
        room: number of the room.
        session: the speaker's visit to a room, from 0 on.
        number: the speaker's utterance, from 0 on.
        emotion: a key of `voice.STYLES`.
        seconds: its length.
    """

    id: str
    path: Path
    speaker: int
    room: int
    session: int
    number: int
    emotion: str
    seconds: float

    @property
    def sex(self) -> str:
        """Sex of the speaker: "f" or "m"."""
        return sex_of(self.speaker)

    @property
    def speaker_id(self) -> str:
        """Kaldi id of the speaker."""
        return speaker_name(self.speaker)

    @property
    def room_id(self) -> str:
        """Name of the room."""
        return room_name(self.room)


def sex_of(speaker: int) -> str:
    """Return the sex of a speaker: odd numbers are men ("m"), even ones women ("f")."""
    return "m" if speaker % 2 else "f"


def speaker_name(speaker: int) -> str:
    """Return the Kaldi id of a speaker, which begins with the sex."""
    return f"{sex_of(speaker)}{speaker:03d}"


def room_name(room: int) -> str:
    """Return the name of a room."""
    return f"room{room:03d}"


@dataclass(frozen=True)
class Sizes:
    """How much each speaker says: `prepare` explains the settings."""

    utterances: int = 12
    sessions: int = 4
    shortest: float = 3.0
    longest: float = 6.0


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
    (the room).

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


def plan(
    root: Path, speakers: Iterable[int], rooms: range, sizes: Sizes, seed: int
) -> list[Recording]:
    """Decide who says what where.

    Each speaker is recorded in `sizes.sessions` different rooms, and has each emotion
    about equally often, in random order.

    Args:
        root: the folder of audio.
        speakers: numbers of the speakers.
        rooms: numbers of the rooms, at least as many as there are sessions.
        sizes: how much each speaker says.
        seed: of all random draws.
    """
    recordings = []
    for speaker in speakers:
        rng = np.random.default_rng([seed, PLAN, speaker])
        own_rooms = rooms.start + rng.permutation(len(rooms))[: sizes.sessions]
        all_emotions = rng.permutation(list(STYLES))
        emotions = rng.permutation(np.resize(all_emotions, sizes.utterances))
        folder = root / speaker_name(speaker)
        for number in range(sizes.utterances):
            session = number * sizes.sessions // sizes.utterances
            room = int(own_rooms[session])
            name = f"{speaker_name(speaker)}-{room_name(room)}-{number:02d}"
            seconds = round(float(rng.uniform(sizes.shortest, sizes.longest)), 2)
            recordings.append(
                Recording(
                    id=name,
                    path=folder / f"{name}.flac",
                    speaker=speaker,
                    room=room,
                    session=session,
                    number=number,
                    emotion=str(emotions[number]),
                    seconds=seconds,
                )
            )
    return recordings


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
    """Return the manifest of recordings, with speakers, emotions and rooms as labels."""
    utterances = []
    speakers = {}
    emotions = {}
    rooms = {}
    for recording in recordings:
        utterances.append(Utterance(recording.id, str(recording.path), seconds=recording.seconds))
        speakers[recording.id] = recording.speaker_id
        emotions[recording.id] = recording.emotion
        rooms[recording.id] = recording.room_id
    return Manifest(utterances, {"spk": speakers, "emotion": emotions, "session": rooms})


def choose_trials(recordings: Sequence[Recording], limit: int, rng: np.random.Generator) -> Trials:
    """Choose up to `limit` trials, as many targets as non-targets.

    Targets cross rooms. Half of the non-targets have the same sex, a quarter the same
    room, as far as there are such pairs.

    Args:
        recordings: what is paired.
        limit: greatest number of trials.
        rng: chooses.
    """
    ids = np.array([recording.id for recording in recordings])
    speaker = np.array([recording.speaker for recording in recordings])
    sex = np.array([recording.sex for recording in recordings])
    room = np.array([recording.room for recording in recordings])
    left, right = np.triu_indices(len(recordings), 1)
    same_room = room[left] == room[right]
    same_speaker = speaker[left] == speaker[right]
    same_sex = sex[left] == sex[right]
    targets = rng.permutation(np.flatnonzero(same_speaker & ~same_room))
    others = rng.permutation(np.flatnonzero(~same_speaker))
    count = min(limit // 2, len(targets), len(others))
    nontargets = _interleaved(others, same_room[others], same_sex[others])
    chosen = np.sort(np.concatenate([targets[:count], nontargets[:count]]))
    return Trials(ids[left[chosen]], ids[right[chosen]], same_speaker[chosen])


def _interleaved(pairs: np.ndarray, same_room: np.ndarray, same_sex: np.ndarray) -> np.ndarray:
    """Order pairs (N,) so that every beginning of the list mixes the four kinds of pair.

    The n-th of its kind comes before the (n+1)-th of every other; pairs in one room
    come a third as often.
    """
    kind = 2 * same_room + same_sex
    turn = np.empty(len(pairs), dtype=int)
    for value, step in enumerate((1, 1, 3, 3)):
        is_kind = kind == value
        turn[is_kind] = np.arange(np.sum(is_kind)) * step
    return pairs[np.argsort(turn, kind="stable")]
