"""Generated voices: a corpus of speech-like utterances made from a seed, with no download.

Every speaker (`_voice.py`) says nonsense (`_phones.py`) in several sessions, each in another room
(`_rooms.py`), in five emotion styles. Rooms are shared between speakers, so that the recording
condition does not name the speaker; training and evaluation share neither speakers nor rooms. The
result is in the public domain: nobody said it. It serves to try the whole chain and to test it;
figures on it say nothing about real speech.
"""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import soundfile as sf
from tqdm import tqdm

from speechssl.corpora.synthetic.rooms import draw_room, record, visit
from speechssl.corpora.synthetic.voice import RATE, STYLES, Speaker, draw_speaker, on_a_day, speak
from speechssl.data.manifest import Manifest, Utterance, write_manifest
from speechssl.data.trials import Trials, write_trials
from speechssl.errors import UserError
from speechssl.threads import usable_cores

TRAIN_ROOMS, EVAL_ROOMS = 24, 10
SPEAKER, DAY, ROOM, VISIT, UTTERANCE, PLAN, TRIALS = range(7)  # independent random streams


@dataclass(frozen=True, slots=True)
class Recording:
    """One utterance to generate: who, where, when and how."""

    id: str
    path: Path
    speaker: int
    sex: str
    room: int
    session: int  # the speaker's first, second ... visit to a studio
    number: int
    emotion: str
    seconds: float

    @property
    def speaker_id(self) -> str:
        return speaker_name(self.speaker)

    @property
    def room_id(self) -> str:
        return f"room{self.room:03d}"


def speaker_name(number: int) -> str:
    """Kaldi id of speaker `number`: odd numbers are men."""
    return f"{'fm'[number % 2]}{number:03d}"


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

    Target trials (OUT/eval/trials) always cross rooms. Labels: utt2emotion, utt2session (the room).

    Args:
        root: the folder of audio to write.
        out: where the Kaldi directories are written.
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
    jobs = jobs if jobs is not None else usable_cores()
    _check(
        speakers, evaluation_speakers, utterances, sessions, shortest, longest, trials, seed, jobs
    )
    if not 0 <= expression <= 2:
        raise UserError(f"prepare synthetic: expression={expression}: take 0 to 2")
    root, out = Path(root).resolve(), Path(out)
    train = range(speakers - evaluation_speakers)
    parts = {
        "train": plan(root, train, 0, TRAIN_ROOMS, utterances, sessions, (shortest, longest), seed),
        "eval": plan(
            root,
            range(len(train), speakers),
            max(TRAIN_ROOMS, sessions),
            EVAL_ROOMS,
            utterances,
            sessions,
            (shortest, longest),
            seed,
        ),
    }
    try:
        for folder in sorted(
            {recording.path.parent for part in parts.values() for recording in part}
        ):
            folder.mkdir(parents=True, exist_ok=True)
        out.mkdir(parents=True, exist_ok=True)
        _generate(
            [recording for part in parts.values() for recording in part], seed, jobs, expression
        )
        for name, part in parts.items():
            write_manifest(_manifest(part), out / name)
        pairs = choose_trials(parts["eval"], trials, np.random.default_rng([seed, TRIALS]))
        write_trials(pairs, out / "eval" / "trials", style="voxceleb")
    except (OSError, sf.LibsndfileError) as error:
        raise UserError(
            f"cannot write below {root} or {out}: {error}; choose folders you may write to"
        ) from error


def _check(
    speakers: int,
    evaluation_speakers: int,
    utterances: int,
    sessions: int,
    shortest: float,
    longest: float,
    trials: int,
    seed: int,
    jobs: int,
) -> None:
    for wrong, message in (
        (evaluation_speakers < 2, f"evaluation_speakers={evaluation_speakers}: take at least 2"),
        (
            speakers <= evaluation_speakers,
            f"speakers={speakers} leaves none to train on beside"
            f" evaluation_speakers={evaluation_speakers}: take more speakers or fewer for"
            " evaluation",
        ),
        (sessions < 2, f"sessions={sessions}: target trials cross sessions, take at least 2"),
        (
            utterances < sessions,
            f"utterances={utterances} a speaker cannot fill sessions={sessions}: take more",
        ),
        (not shortest >= 1.0, f"shortest={shortest} s: take at least 1 s"),
        (
            not shortest <= longest <= 600.0,
            f"longest={longest} s: take shortest={shortest} s to 600 s",
        ),
        (trials < 2, f"trials={trials}: take at least 2"),
        (seed < 0, f"seed={seed}: take a number from 0 up"),
        (jobs < 1, f"jobs={jobs}: take at least 1"),
    ):
        if wrong:
            raise UserError(f"prepare synthetic: {message}")


def plan(
    root: Path,
    speakers: range,
    first_room: int,
    rooms: int,
    utterances: int,
    sessions: int,
    seconds: tuple[float, float],
    seed: int,
) -> list[Recording]:
    """Who says what where: each emotion about as often, in random order, in `sessions` different
    rooms.
    """
    recordings = []
    for speaker in speakers:
        rng = np.random.default_rng([seed, PLAN, speaker])
        places = first_room + rng.permutation(max(rooms, sessions))[:sessions]
        emotions = rng.permutation(np.resize(rng.permutation(list(STYLES)), utterances))
        for number in range(utterances):
            session = number * sessions // utterances
            name = f"{speaker_name(speaker)}-room{places[session]:03d}-{number:02d}"
            recordings.append(
                Recording(
                    id=name,
                    path=root / speaker_name(speaker) / f"{name}.flac",
                    speaker=speaker,
                    sex=speaker_name(speaker)[0],
                    room=int(places[session]),
                    session=session,
                    number=number,
                    emotion=str(emotions[number]),
                    seconds=round(float(rng.uniform(*seconds)), 2),
                )
            )
    return recordings


def voice_of(speaker: int, seed: int) -> Speaker:
    """The voice of speaker `speaker` of the corpus made from `seed`."""
    return draw_speaker(np.random.default_rng([seed, SPEAKER, speaker]), speaker_name(speaker)[0])


def waveform(recording: Recording, seed: int, expression: float = 1.0) -> np.ndarray:
    """The samples of one recording, (T,) float32 at 16 kHz."""
    who, when = recording.speaker, recording.session
    voice = on_a_day(voice_of(who, seed), np.random.default_rng([seed, DAY, who, when]))
    room = draw_room(np.random.default_rng([seed, ROOM, recording.room]))
    room = visit(room, np.random.default_rng([seed, VISIT, who, when]))
    rng = np.random.default_rng([seed, UTTERANCE, who, recording.number])
    strength = expression * float(rng.uniform(0.7, 1.2))
    return record(speak(voice, recording.emotion, recording.seconds, rng, strength), room, rng)


def _write(recording: Recording, seed: int, expression: float) -> None:
    sf.write(recording.path, waveform(recording, seed, expression), RATE, subtype="PCM_16")


def _generate(recordings: list[Recording], seed: int, jobs: int, expression: float) -> None:
    write = partial(_write, seed=seed, expression=expression)
    progress = partial(tqdm, total=len(recordings), desc="generate", unit="utt", disable=None)
    if jobs == 1:
        for _ in progress(map(write, recordings)):
            pass
        return
    kind = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context(kind)) as pool:
        for _ in progress(pool.map(write, recordings, chunksize=8)):
            pass


def _manifest(recordings: list[Recording]) -> Manifest:
    rows = [Utterance(r.id, str(r.path), 0.0, None, r.seconds) for r in recordings]
    labels = {
        "spk": {r.id: r.speaker_id for r in recordings},
        "emotion": {r.id: r.emotion for r in recordings},
        "session": {r.id: r.room_id for r in recordings},
    }
    return Manifest(rows, labels)


def choose_trials(recordings: list[Recording], limit: int, rng: np.random.Generator) -> Trials:
    """Up to `limit` trials, as many targets as non-targets.

    Targets cross rooms. Half of the non-targets have the same sex, a quarter the same room, as far
    as there are such pairs.
    """
    speaker, sex, room = (
        np.array([getattr(r, name) for r in recordings]) for name in ("speaker", "sex", "room")
    )
    left, right = np.triu_indices(len(recordings), 1)
    same_room = room[left] == room[right]
    same_speaker = speaker[left] == speaker[right]
    targets = rng.permutation(np.flatnonzero(same_speaker & ~same_room))
    others = rng.permutation(np.flatnonzero(~same_speaker))
    count = min(limit // 2, len(targets), len(others))
    kind = 2 * same_room[others] + (sex[left] == sex[right])[others]
    # the n-th of its kind comes before the (n+1)-th of every other; same-room kinds come a third as
    # often
    turn = np.empty(len(others), dtype=int)
    for value, step in enumerate((1, 1, 3, 3)):
        turn[kind == value] = np.arange(np.sum(kind == value)) * step
    nontargets = others[np.argsort(turn, kind="stable")]
    chosen = np.sort(np.concatenate([targets[:count], nontargets[:count]]))
    ids = np.array([recording.id for recording in recordings])
    return Trials(ids[left[chosen]], ids[right[chosen]], same_speaker[chosen])
