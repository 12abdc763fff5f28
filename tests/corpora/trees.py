"""Corpora in miniature: generated audio in the layout that each corpus is distributed in.

A function of the name of each part of `corpora/` writes a complete, usable tree below a folder.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from builders import RATE, noise, write_audio


@dataclass
class Tree:
    """A corpus in miniature.

    Attributes:
        root: what is given to `prepare`.
        labels: names X of the files utt2X that it must write.
        layout: words of its layout, which the message about an empty root must name.
        settings: keyword arguments of `prepare`.
        directories: Kaldi directories below OUT that it writes; "." is OUT itself.
    """

    root: Path
    labels: tuple[str, ...]
    layout: str
    settings: dict[str, Any] = field(default_factory=dict)
    directories: tuple[str, ...] = (".",)


def put(path: Path, samples: np.ndarray | None = None, rate: int = RATE, **options: str) -> Path:
    """Write a file of audio (a second of noise if not given) with the folders above it."""
    return write_audio(path, noise(1.0) if samples is None else samples, rate, **options)


def folder(root: Path) -> Tree:
    """Three files of two speakers."""
    put(root / "ann/one/1.wav")
    put(root / "ann/two/2.flac", noise(2.0))
    put(root / "bob/one/with space.wav", noise(0.7))
    return Tree(root, ("spk", "session"), "no audio", {"speaker": "{speaker}/{session}/*"})


def ravdess(root: Path) -> Tree:
    """Three utterances of two actors each, with silence at both ends."""
    silence = np.zeros(RATE)
    for actor in (1, 12):
        for rest in ("06-01-02-01", "01-01-01-02", "03-02-01-01"):
            path = root / f"Actor_{actor:02d}" / f"03-01-{rest}-{actor:02d}.wav"
            put(path, np.concatenate([silence, noise(0.6), silence]))
    labels = ("spk", "emotion", "intensity", "statement", "gender")
    return Tree(root, labels, "03-01-06-01-02-01-12.wav")


def crema_d(root: Path) -> Tree:
    """Four clips of two actors, and the table of one of them."""
    for name in ("1001_DFA_ANG_XX", "1001_IEO_FEA_HI", "1002_ITH_SAD_X", "1002_ITS_NEU_XX"):
        put(root / "AudioWAV" / f"{name}.wav", noise(0.6))
    rows = "ActorID,Age,Sex,Race,Ethnicity\n1001,51,Male,a,b\n"
    (root / "VideoDemographics.csv").write_text(rows)
    return Tree(root, ("spk", "emotion", "sentence", "level", "gender"), "1001_DFA_ANG_XX.wav")


def emodb(root: Path) -> Tree:
    """Four utterances of four speakers."""
    for name in ("03a01Fa", "16b10Wb", "14a05Na", "12b03Lc"):
        put(root / "wav" / f"{name}.wav", noise(0.6))
    return Tree(root, ("spk", "emotion", "text", "gender"), "03a01Fa.wav")


IEMOCAP_TURNS = {
    "Ses01F_impro01_F000": "neu",
    "Ses01F_impro01_M003": "exc",
    "Ses02M_script01_1b_F010": "fru",
    "Ses02M_script01_1b_M011": "xxx",
    "Ses02M_script01_1b_M012": "ang",
}


def iemocap(root: Path) -> Tree:
    """Two sessions; the letter of a file's name is the microphone's, that of the turn speaks."""
    for turn, code in IEMOCAP_TURNS.items():
        session = root / f"Session{turn[4]}"
        dialogue = turn.rpartition("_")[0]
        put(session / "sentences/wav" / dialogue / f"{turn}.wav", noise(0.6))
        labels = session / "dialog/EmoEvaluation" / f"{dialogue}.txt"
        labels.parent.mkdir(parents=True, exist_ok=True)
        with labels.open("a") as file:
            file.write(f"[6.2901 - 8.2357]\t{turn}\t{code}\t[2.5000, 2.5000, 2.5000]\n")
            file.write("C-E2:\tNeutral;\t()\n\n")
    put(root / "Session1/dialog/wav/Ses01F_impro01.wav")  # the whole dialogue is no turn
    return Tree(root, ("spk", "emotion", "style", "gender", "fold"), "Ses01F_impro01_F000.wav")


MSP_COLUMNS = ("FileName", "EmoClass", "SpkrID", "Gender", "Split_Set")
MSP_ROWS = (
    ("MSP-PODCAST_0001_0008.wav", "N", "127", "Male", "Train"),
    ("MSP-PODCAST_0001_0019.wav", "X", "127", "Male", "Train"),
    ("MSP-PODCAST_0023_0047.wav", "H", "Unknown", "Unknown", "Train"),
    ("MSP-PODCAST_0046_0106.wav", "C", "6", "Female", "Development"),
    ("MSP-PODCAST_0153_0001.wav", "A", "9", "Female", "Test1"),
    ("MSP-PODCAST_0153_0002.wav", "A", "9", "Female", "Test1"),
)


def msp_podcast(root: Path, columns: Sequence[str] = MSP_COLUMNS) -> Tree:
    """Five turns, and a table that lists a sixth one."""
    for row in MSP_ROWS[:-1]:
        put(root / "Audios" / "Audios" / row[0], noise(0.6))
    (root / "Labels").mkdir(parents=True)
    with open(root / "Labels" / "labels_consensus.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*columns[:2], "EmoAct", "EmoVal", "EmoDom", *columns[2:]])
        for row in MSP_ROWS:
            writer.writerow([*row[:2], 4.2, 3.8, 4.6, *row[2:]])
    return Tree(root, ("spk", "emotion", "gender", "fold"), "labels_consensus.csv")


def musan(root: Path) -> Tree:
    """Three noises, two pieces of music, one of speech."""
    for number in range(3):
        put(root / f"musan/noise/free-sound/noise-free-sound-000{number}.wav")
    for number in range(2):
        put(root / f"musan/music/fma/music-fma-000{number}.wav", noise(2.0))
    put(root / "musan/speech/librivox/speech-librivox-0000.wav", noise(3.0))
    (root / "musan/noise/free-sound/LICENSE").write_text("CC BY 3.0")
    return Tree(root, ("spk", "kind"), "music or speech or noise", {"partial": True})


def rirs_noises(root: Path) -> Tree:
    """Three simulated responses; real ones with one channel and with eight; noises."""
    click = np.concatenate([np.zeros(99), [0.9], np.zeros(400)])
    top = root / "RIRS_NOISES"
    for room in ("small", "medium", "large"):
        put(top / f"simulated_rirs/{room}room/Room001/Room001-00001.wav", click)
    real = top / "real_rirs_isotropic_noises"
    put(real / "RVB2014_type1_rir_largeroom1.wav", np.stack([click] * 8, axis=1))
    put(real / "RVB2014_type1_noise_largeroom1.wav")
    put(real / "air_type1_air_rir_aula.wav", click)
    put(top / "pointsource_noises/noise-free-sound-0000.wav")
    return Tree(root, ("spk", "kind", "room"), "simulated_rirs", {"partial": True})


VOXCELEB1_LIST = (
    "1 id10270/5r0dWxy17C8/00001.wav id10270/x6uYqmx31kE/00001.wav\n"
    "0 id10270/5r0dWxy17C8/00001.wav id10300/ize_eiCFEg0/00003.wav\n"
)


def voxceleb1(root: Path) -> Tree:
    """Three utterances of two speakers of the test part, one in a folder of its own archive."""
    put(root / "vox1_test_wav/wav/id10270/5r0dWxy17C8/00001.wav")
    put(root / "vox1_test_wav/wav/id10270/x6uYqmx31kE/00001.wav", noise(2.0))
    put(root / "more/wav/id10300/ize_eiCFEg0/00003.wav")
    (root / "veri_test2.txt").write_text(VOXCELEB1_LIST)
    return Tree(root, ("spk",), "id1NNNN/<video>/NNNNN.wav", {"partial": True})


def voxceleb2(root: Path) -> Tree:
    """Three utterances of two speakers, in two formats."""
    put(root / "dev/wav/id00012/21Uxsk56VDQ/00001.wav")
    put(root / "dev/wav/id00012/21Uxsk56VDQ/00002.wav", noise(2.0))
    put(root / "dev/flac/id00015/-2gvf4CAH-c/00003.flac")
    return Tree(root, ("spk",), "id0NNNN/<video>/NNNNN.wav", {"partial": True})


CN_CELEB_TRIALS = (
    "id00800-enroll test/id00800-singing-01-005.wav 1\n"
    "id00800-enroll test/id00999-live_broadcast-02-001.wav 0\n"
    "id00999-enroll test/id00999-live_broadcast-02-001.wav 1\n"
)


def cn_celeb(root: Path) -> Tree:
    """CN-Celeb1 with two speakers to train on and two to test, one enrolled from two genres."""
    top = root / "CN-Celeb_flac"
    for place in (
        "data/id00012/singing-01-001.flac",
        "data/id00012/singing-02-001.flac",
        "data/id00013/vlog-01-001.flac",
        "data/id00800/interview-01-001.flac",
        "data/id00800/singing-03-001.flac",
        "data/id00999/speech-01-002.flac",
        "eval/enroll/id00800-enroll.flac",
        "eval/enroll/id00999-enroll.flac",
        "eval/test/id00800-singing-01-005.flac",
        "eval/test/id00999-live_broadcast-02-001.flac",
    ):
        put(top / place, noise(0.6))
    lists = {
        "dev/dev.lst": "id00012\nid00013\n",
        "eval/lists/enroll.lst": (
            "id00800-enroll enroll/id00800-enroll.wav\nid00999-enroll enroll/id00999-enroll.wav\n"
        ),
        "eval/lists/enroll.map": (
            "id00800-enroll id00800/interview-01-001.wav id00800/singing-03-001.wav\n"
            "id00999-enroll id00999/speech-01-002.wav\n"
        ),
        "eval/lists/test.lst": (
            "test/id00800-singing-01-005.wav\ntest/id00999-live_broadcast-02-001.wav\n"
        ),
        "eval/lists/trials.lst": CN_CELEB_TRIALS,
    }
    for name, text in lists.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text)
    return Tree(root, ("spk", "genre", "session"), "eval/lists/trials.lst", {"partial": True})


SITW_META = (
    "audio/unotx.flac ZPYJ m video 605273 96 120 1 codec,reverb 3 interview laughter,overlap\n"
    "audio/zgjnl.flac PNTR f studio 762983 40 179 3 clean 0 interview laughter\n"
    "audio/mihtz.flac ZPYJ m phone 11 0 4 1 noise 2 outdoor none\n"
    "audio/nkuzl.flac PNTR f studio 12 0 4 2+ clean 0 stage none\n"
)


def sitw(root: Path) -> Tree:
    """The evaluation part: a model of a whole file, one of two spans, and two files to test."""
    top = root / "eval"
    for name in ("unotx", "mihtz", "nkuzl"):
        put(top / f"audio/{name}.flac")
    put(top / "audio/zgjnl.flac", noise(4.0))
    lists = {
        "lists/enroll-core.lst": "12013 audio/unotx.flac\n",
        "lists/enroll-assist.lst": (
            "45205 audio/zgjnl.flac 0.500 1.250\n45205 audio/zgjnl.flac 2.000 4.010\n"
        ),
        "lists/test-core.lst": "audio/mihtz.flac\n",
        "lists/test-multi.lst": "audio/mihtz.flac\naudio/nkuzl.flac\n",
        "keys/core-core.lst": "12013 audio/mihtz.flac tgt\n",
        "keys/core-multi.lst": "12013 audio/mihtz.flac tgt\n12013 audio/nkuzl.flac imp\n",
        "keys/assist-multi.lst": "45205 audio/mihtz.flac imp x\n45205 audio/nkuzl.flac tgt x\n",
        "keys/aux/assist-multi.10s.lst": "45205 audio/nkuzl.flac tgt\n",
        "keys/meta.lst": SITW_META,
    }
    for name, text in lists.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text)
    labels = ("gender", "microphone", "session", "numspk", "artifact", "level", "environment")
    return Tree(root, ("spk", *labels), "eval/lists/enroll-core.lst", {"partial": True})


VOXSRC_2021 = (
    "1 id10270/5r0dWxy17C8/00001.wav id10270/x6uYqmx31kE/00001.wav\n"
    "0 id10270/5r0dWxy17C8/00001.wav id10300/ize_eiCFEg0/00003.wav\n"
)


def voxsrc(root: Path) -> Tree:
    """Lists of three years and a blind one, with the audio of VoxCeleb1 beside theirs."""
    voxceleb1(root / "voxceleb1")
    (root / "voxceleb1/veri_test2.txt").unlink()
    for name in (
        "voxceleb1_cd/id10300/000912.flac",
        "VoxSRC2022_dev/dev_00000.wav",
        "VoxSRC2022_dev/dev_00001.wav",
        "Track12_test_data/00001.wav",
        "Track12_test_data/eval_7.wav",
    ):
        put(root / name, noise(0.6))
    (root / "voxsrc2021_val.txt").write_text(VOXSRC_2021)
    (root / "voxsrc2022_dev_fixed.txt").write_text(
        "0 VoxSRC2022_dev/dev_00000.wav VoxSRC2022_dev/dev_00001.wav\n"
        "1 id10270/5r0dWxy17C8/00001.wav id10270/x6uYqmx31kE/00001.wav\n"
    )
    (root / "Track12_blind.txt").write_text("eval_7.wav Track12_test_data/00001.wav\n")
    (root / "data/verif").mkdir(parents=True)
    (root / "data/verif/trials.txt").write_text(
        "0 voxceleb1/id10270/5r0dWxy17C8/00001.wav voxceleb1_cd/id10300/000912.wav\n"
        "1 voxceleb1/id10300/ize_eiCFEg0/00003.wav voxceleb1_cd/id10300/000912.wav\n"
    )
    return Tree(root, ("spk",), "voxsrc2021_val.txt", {"partial": True})


def lhotse_recording(path: Path, seconds: float, **changes: Any) -> dict[str, Any]:
    """A recording of one channel as Lhotse writes it."""
    source = {"type": "file", "channels": [0], "source": str(path)}
    recording = {
        "id": path.stem,
        "sources": [source],
        "sampling_rate": RATE,
        "num_samples": round(seconds * RATE),
        "duration": seconds,
    }
    return recording | changes


def lhotse_supervision(name: str, recording: str, **changes: Any) -> dict[str, Any]:
    """A supervision of a whole second as Lhotse writes it."""
    supervision = {
        "id": name,
        "recording_id": recording,
        "start": 0.0,
        "duration": 1.0,
        "channel": 0,
        "text": "NOT A LABEL",
        "language": "English",
        "speaker": "ann",
        "gender": "f",
        "custom": {"emotion": "happy", "level": 3},
    }
    return supervision | changes


def write_jsonl(path: Path, rows: Sequence[Any]) -> Path:
    """Write objects, one a line; packed if the name ends in .gz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


def lhotse(root: Path) -> Tree:
    """Recordings and supervisions: two whole files, and two parts of a third."""
    recordings = []
    for name, seconds in (("r1", 1.0), ("r2", 1.0), ("r3", 3.0)):
        path = put(root / f"audio/{name}.wav", noise(seconds))
        recordings.append(lhotse_recording(path, seconds))
    supervisions = [
        lhotse_supervision("s1", "r1"),
        lhotse_supervision("s2", "r2", speaker="Bob B.", gender="m"),
        lhotse_supervision("s3", "r3", duration=1.25),
        lhotse_supervision("s4", "r3", start=1.5, duration=1.5, custom={"emotion": "very sad"}),
    ]
    write_jsonl(root / "tiny_recordings_all.jsonl.gz", recordings)
    write_jsonl(root / "tiny_supervisions_all.jsonl.gz", supervisions)
    return Tree(root, ("spk", "gender", "language", "emotion"), ".jsonl.gz")


def synthetic(root: Path) -> Tree:
    """Nothing: this corpus writes its own audio."""
    settings = {
        "speakers": 4,
        "evaluation_speakers": 2,
        "utterances": 2,
        "sessions": 2,
        "shortest": 1.0,
        "longest": 1.2,
        "jobs": 1,
    }
    return Tree(root, ("spk", "emotion", "session"), "", settings, ("train", "eval"))
