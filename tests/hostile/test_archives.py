"""Archives of somebody else's: members are bytes at an address, so no name in one is ever followed."""

import gzip
import io
import lzma
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile_audio
import numpy as np
import pytest
import soundfile
from builders import ECAPA
from hostile_runs import Cases, Runner

GOOD = 6  # utterances of every archive that are as they should be
TRAIN = [
    "data.workers=0", "data.crops=[{count: 2, seconds: 0.5}]", "train.steps=1", "train.batch_size=4",
    "train.precision=float32", "method={name: vicreg}", "features={n_mels: 24}", "augment=null",
    "encoder={" + ", ".join(f"{key}: {value}" for key, value in ECAPA.items()) + "}",
]  # fmt: skip
VERBS = {
    "validate": ["validate", "DATA", "--read-audio"],
    "embed": ["embed", "mfcc", "DATA", "--out", "OUT.npz"],
    "shard": ["shard", "DATA", "OUT", "--jobs", "1"],
    "train": ["train", "CONFIG", "data.train=[DATA]", *TRAIN, "--out", "OUT"],
}

MEMBERS: dict[str, dict[str, Any]] = {
    "a name that leads upwards": {"name": "../../evil.wav"},
    "an absolute name": {"name": "/tmp/evil-hostile-test.wav"},
    "a name of a device": {"name": "/dev/null"},
    "a name in a folder that is a link": {"name": "link/evil.wav"},
    "a symbolic link": {"name": "a.wav", "type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
    "a symbolic link upwards": {"name": "link", "type": tarfile.SYMTYPE, "linkname": "../.."},
    "a hard link": {"name": "b.wav", "type": tarfile.LNKTYPE, "linkname": "/etc/passwd"},
    "a character device": {"name": "c.wav", "type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 5},
    "a block device": {"name": "d.wav", "type": tarfile.BLKTYPE, "devmajor": 8, "devminor": 0},
    "a FIFO": {"name": "e.wav", "type": tarfile.FIFOTYPE},
    "a folder": {"name": "f.wav", "type": tarfile.DIRTYPE},
    "an unknown kind": {"name": "g.wav", "type": b"Z"},
    "a name of control characters": {"name": "\x1b[2J\r\n\u202e.wav"},
    "a name of 200,000 characters": {"name": "x" * 200_000 + ".wav"},
    "a name that is not UTF-8": {"name": "\udcff.wav"},
    "set-uid": {"name": "h.wav", "mode": 0o6777},
    "a name twice": {"name": "0.wav"},
    "a sparse file of a terabyte": {"name": "i.wav", "type": tarfile.GNUTYPE_SPARSE},
    "headers of a megabyte": {"name": "j.wav", "pax_headers": {"x" * 1000: "y" * 1_000_000}},
}


def recording(seed: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, hostile_audio.samples(0.8, seed), 16000, format="WAV")
    return file.getvalue()


def add(archive: tarfile.TarFile, data: bytes, **header: Any) -> tuple[int, int]:
    """Add a member; return where its bytes are and how many."""
    member = tarfile.TarInfo(header.pop("name"))
    for key, value in header.items():
        setattr(member, key, value)
    member.size = len(data)
    before = archive.fileobj.tell()  # type: ignore[union-attr]
    archive.addfile(member, io.BytesIO(data))
    after = archive.fileobj.tell()  # type: ignore[union-attr]
    padded = -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    return (after - padded, len(data)) if after - padded > before else (before, len(data))


def write_directory(folder: Path, addresses: dict[str, str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "wav.scp").write_text("".join(f"{n} {a}\n" for n, a in sorted(addresses.items())))
    (folder / "utt2spk").write_text("".join(f"{name} {name}\n" for name in sorted(addresses)))
    (folder / "utt2dur").write_text("".join(f"{name} 0.8\n" for name in sorted(addresses)))
    return folder


def archive_with(path: Path, members: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Write an archive of good recordings and odd members; return id -> address."""
    addresses = {}
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for number in range(GOOD):
            offset, size = add(archive, recording(number), name=f"{number}.wav")
            addresses[f"good{number}"] = f"{path}:{offset}:{size}.wav"
        for number, header in enumerate(members.values()):
            offset, size = add(archive, recording(100 + number), **header)
            addresses[f"odd{number:02d}"] = f"{path}:{offset}:{size}.wav"
        nested = b'{"id": ' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}"
        add(archive, nested, name="0.json")
    return addresses


def claims(folder: Path) -> dict[str, str]:
    """Return addresses that claim what an archive does not hold."""
    shard = folder / "good.tar"
    good = archive_with(shard, {})["good0"]
    size = shard.stat().st_size
    sparse = folder / "sparse.tar"
    with sparse.open("wb") as file:
        file.write(hostile_audio.wav(promised=0xFFFFFFFF))
        file.truncate(1 << 40)
    (folder / "link.tar").symlink_to("/etc/passwd")
    (folder / "zero.tar").symlink_to("/dev/zero")
    (folder / "dir.tar").mkdir()
    os.mkfifo(folder / "fifo.tar")
    packed = shard.read_bytes()
    (folder / "gzip.tar").write_bytes(gzip.compress(packed + bytes(50_000_000)))
    (folder / "xz.tar").write_bytes(lzma.compress(packed))
    return {
        "beyond the end": f"{shard}:{size}:100.wav",
        "across the end": f"{shard}:{size - 10}:100.wav",
        "a petabyte": f"{shard}:0:{10**15}.wav",
        "the last byte of 63 bits": f"{shard}:{10**18 - 1}:1.wav",
        "no bytes": f"{shard}:0:0.wav",
        "a header in the place of audio": f"{shard}:0:512.wav",
        "the whole archive": f"{shard}:0:{size}.wav",
        "another ending": good.removesuffix(".wav") + ".flac",
        "an ending for FFmpeg": good.removesuffix(".wav") + ".m4a",
        "an ending that means nothing": good.removesuffix(".wav") + ".sh",
        "a sparse archive, for FFmpeg": f"{sparse}:{1 << 30}:{1 << 39}.m4a",
        "a sparse archive, zeros": f"{sparse}:{1 << 30}:{1 << 39}.mp3",
        "a sparse archive, flac": f"{sparse}:{1 << 30}:{1 << 39}.flac",
        "a file of the system": f"{folder / 'link.tar'}:0:100.wav",
        "a device": f"{folder / 'zero.tar'}:0:{10**12}.wav",
        "a folder": f"{folder / 'dir.tar'}:0:100.wav",
        "a FIFO": f"{folder / 'fifo.tar'}:0:100.wav",
        "gzip": f"{folder / 'gzip.tar'}:0:1000.wav",
        "xz": f"{folder / 'xz.tar'}:0:1000.wav",
        "upwards": f"{folder}/../../../../../../etc/passwd.tar:0:10.wav",
        "nobody's": f"{folder / 'none.tar'}:0:10.wav",
        "a name with a null byte": f"{folder}/a\\0.tar:0:10.wav",
    }


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """An empty configuration: every setting is on the command line."""
    path = tmp_path / "config.yaml"
    path.write_text("train: {steps: 1}\n")
    return path


def command(verb: str, data: Path, out: Path, config: Path) -> list[str]:
    places = {"DATA": str(data), "OUT": str(out), "CONFIG": str(config)}
    words = []
    for word in VERBS[verb]:
        for name, place in places.items():
            word = word.replace(name, place)
        words.append(word)
    return words


def attempt(runner: Runner, verb: str, data: Path, config: Path, root: Path) -> str:
    """Run a verb on a directory; return what did not hold."""
    out = root / "out"
    outcome = runner.run(
        command(verb, data, out, config), out=out, own=[out, *out_files(out)], root=root
    )
    problem = outcome.problem(refused=None if verb == "validate" else False)
    if verb == "embed" and not problem:
        with np.load(f"{out}.npz") as embedded:
            missing = {f"good{number}" for number in range(GOOD)} - set(embedded["ids"].tolist())
        problem = f"not embedded: {sorted(missing)}" if missing else ""
    if out.is_dir():
        shutil.rmtree(out)
    return problem


def out_files(out: Path) -> list[Path]:
    return [Path(f"{out}.npz{ending}") for ending in ("", ".failed", ".parts", ".passed_over")]


@pytest.mark.parametrize("verb", VERBS)
def test_members(verb: str, tmp_path: Path, config: Path, runner: Runner, cases: Cases) -> None:
    """An archive of good recordings and one odd member, for each kind; and one with all of them."""
    kinds: dict[str, dict[str, dict[str, Any]]] = {"all of them": MEMBERS}
    if verb in ("validate", "embed"):
        kinds.update({name: {name: header} for name, header in MEMBERS.items()})
    for number, (name, members) in enumerate(kinds.items()):
        folder = tmp_path / "deep" / "data" / f"{number}"
        folder.mkdir(parents=True)
        write_directory(folder, archive_with(folder / "a.tar", members))
        cases.record(
            "archives: members", f"{name}, {verb}", attempt(runner, verb, folder, config, tmp_path)
        )
    cases.hold()


@pytest.mark.parametrize("verb", VERBS)
def test_claims(verb: str, tmp_path: Path, config: Path, runner: Runner, cases: Cases) -> None:
    """Addresses that claim what an archive does not hold, among good ones."""
    folder = tmp_path / "data"
    folder.mkdir()
    hostile = claims(folder)
    good = archive_with(folder / "good.tar", {})
    if verb in ("validate", "embed"):
        for number, (name, address) in enumerate(hostile.items()):
            one = write_directory(folder / f"{number}", {**good, "odd": address})
            cases.record(
                "archives: claims", f"{name}, {verb}", attempt(runner, verb, one, config, tmp_path)
            )
    odd = {f"odd{number:02d}": address for number, address in enumerate(hostile.values())}
    together = write_directory(folder / "all", {**good, **odd})
    problem = attempt(runner, verb, together, config, tmp_path)
    cases.record("archives: claims", f"all of them, {verb}", problem)
    cases.hold()


DIRECTORIES: dict[str, Callable[[Path, dict[str, str]], None]] = {
    "utt2dur of a million years": lambda folder, good: (folder / "utt2dur").write_text(
        "".join(f"{name} 3e13\n" for name in good)
    ),
    "utt2dur of a day": lambda folder, good: (folder / "utt2dur").write_text(
        "".join(f"{name} 86400\n" for name in good)
    ),
    "segments of a million years": lambda folder, good: (folder / "segments").write_text(
        "".join(f"{name} {name} 0 3e13\n" for name in good)
    ),
    "segments that begin in a million years": lambda folder, good: (folder / "segments").write_text(
        "".join(f"{name} {name} 3e13 3.1e13\n" for name in good)
    ),
    "segments of a nanosecond": lambda folder, good: (folder / "segments").write_text(
        "".join(f"{name} {name} 0.1 0.100000001\n" for name in good)
    ),
}  # type: ignore[assignment]


@pytest.mark.parametrize("verb", VERBS)
def test_lengths(verb: str, tmp_path: Path, config: Path, runner: Runner, cases: Cases) -> None:
    """Tables that say how long recordings are, and lie."""
    shard = tmp_path / "good.tar"
    good = archive_with(shard, {})
    for number, (name, change) in enumerate(DIRECTORIES.items()):
        folder = write_directory(tmp_path / f"{number}", good)
        if "segments" in name:
            (folder / "utt2dur").unlink()
        change(folder, good)
        out = tmp_path / "out"
        outcome = runner.run(
            command(verb, folder, out, config), out=out, own=[out, *out_files(out)], root=tmp_path
        )
        cases.record("data directories: lengths", f"{name}, {verb}", outcome.problem())
        if out.is_dir():
            shutil.rmtree(out)
    cases.hold()
