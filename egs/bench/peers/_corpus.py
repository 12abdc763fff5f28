"""Generated voices, noises and rooms, laid out as each of the programs wants to find them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from egs.bench.peers._programs import SAMPLE_RATE

KINDS = ("noise", "speech", "music")
NOISES = 10
"""Of each kind."""

NOISE_SECONDS = 5
ROOMS = 20


@dataclass(frozen=True)
class Corpus:
    """A folder of audio.

    Attributes:
        folder: where everything lies.
        voices: recordings of speech.
        data: Kaldi directory of the voices.
        noise: folder of noises with a table of their kinds, for us.
        rooms: folder of room impulse responses.
    """

    folder: Path
    voices: list[Path]
    data: Path
    noise: Path
    rooms: Path


def generate(folder: Path, utterances: int) -> Corpus:
    """Write a corpus: voices of 4 to 8 s in wav files, noises of 5 s, rooms of 0.5 s.

    Noises and rooms lie where sslsv (`musan_split/KIND/SOURCE/*.wav`, `simulated_rirs/ROOM/SET/*.wav`)
    and 3D-Speaker (`musan/KIND/SOURCE/SET/*.wav`, `data/rirs/rir.npy`) look for them.
    """
    voices = _voices(folder, utterances)
    rng = np.random.default_rng(0)
    table = ["path\tkind"]
    lists: dict[str, list[str]] = {"noise": [], "rooms": []}
    for kind in KINDS:
        for number in range(NOISES):
            wave = _noise(rng, kind)
            split = folder / "musan_split" / kind / "generated" / f"{number}.wav"
            deep = folder / "musan" / kind / "generated" / "all" / f"{number}.wav"
            _write(split, wave)
            _write(deep, wave)
            table.append(f"{kind}/generated/{number}.wav\t{kind}")
            lists["noise"].append(f"{kind}-{number} {deep}")
    (folder / "musan_split" / "utterances.tsv").write_text("\n".join(table) + "\n")
    rooms = np.stack([_room(rng) for _ in range(ROOMS)])
    for number, room in enumerate(rooms):
        path = folder / "simulated_rirs" / "room" / "all" / f"{number}.wav"
        _write(path, 0.5 * room)
        lists["rooms"].append(f"room-{number} {path}")
    (folder / "data" / "rirs").mkdir(parents=True, exist_ok=True)
    np.save(folder / "data" / "rirs" / "rir.npy", rooms)
    for name, lines in lists.items():
        (folder / f"{name}.scp").write_text("\n".join(lines) + "\n")
    return Corpus(
        folder, voices, folder / "kaldi", folder / "musan_split", folder / "simulated_rirs"
    )


def _voices(folder: Path, utterances: int) -> list[Path]:
    """Generate voices and write them as wav files, with a Kaldi directory."""
    from speechssl.corpora.synthetic.corpus import prepare
    from speechssl.data.manifest import read_manifest

    each = 10
    speakers = max(2, -(-utterances // each))
    prepare(
        folder / "flac",
        folder / "kaldi_flac",
        speakers=speakers + 2,
        evaluation_speakers=2,
        utterances=each,
        shortest=4.0,
        longest=8.0,
        trials=2,
        jobs=1,
    )
    (folder / "kaldi").mkdir()
    voices = []
    scp = []
    speakers_of = []
    durations = []
    for utterance in read_manifest(folder / "kaldi_flac" / "train").utterances[:utterances]:
        wave, _ = soundfile.read(utterance.path)
        path = folder / "wav" / f"{utterance.id}.wav"
        _write(path, wave)
        voices.append(path)
        scp.append(f"{utterance.id} {path}")
        speakers_of.append(f"{utterance.id} {utterance.id}")
        durations.append(f"{utterance.id} {len(wave) / SAMPLE_RATE:.4f}")
    for name, lines in (("wav.scp", scp), ("utt2spk", speakers_of), ("utt2dur", durations)):
        (folder / "kaldi" / name).write_text("\n".join(lines) + "\n")
    return voices


def write_vectors(path: Path, names: Sequence[str], vectors: np.ndarray) -> None:
    """Write vectors (N, D) float32 as a Kaldi archive, and its index beside it (`.scp`)."""
    index = []
    with open(path, "wb") as archive:
        for name, vector in zip(names, vectors, strict=True):
            archive.write(f"{name} ".encode())
            index.append(f"{name} {path}:{archive.tell()}\n")
            archive.write(b"\0BFV \4" + struct.pack("<i", len(vector)) + vector.tobytes())
    path.with_suffix(".scp").write_text("".join(index))


def _write(path: Path, wave: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.clip(wave, -1, 1), SAMPLE_RATE, subtype="PCM_16")


def _noise(rng: np.random.Generator, kind: str) -> np.ndarray:
    """Noise; for music a chord, for speech noise that comes and goes four times a second."""
    count = NOISE_SECONDS * SAMPLE_RATE
    time = np.arange(count) / SAMPLE_RATE
    if kind == "music":
        tones = rng.uniform(100, 1500, 5)
        return 0.05 * np.sin(2 * np.pi * time[:, None] * tones).sum(1)
    noise = 0.1 * rng.standard_normal(count)
    if kind == "speech":
        noise *= 0.5 + 0.5 * np.sin(2 * np.pi * 4 * time + rng.uniform(0, 6))
    return noise


def _room(rng: np.random.Generator) -> np.ndarray:
    """Impulse response of half a second: a direct sound and a tail that decays exponentially."""
    time = np.arange(SAMPLE_RATE // 2) / SAMPLE_RATE
    tail = 0.1 * rng.standard_normal(len(time)) * 10 ** (-3 * time / rng.uniform(0.2, 0.8))
    tail[0] = 1.0
    return tail
