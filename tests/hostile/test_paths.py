"""Paths in a data directory of somebody else's: what is no regular file never blocks or fills memory."""

import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from builders import noise, write_audio

from speechssl import config, foreign_json, foreign_yaml
from speechssl.audio import reading
from speechssl.data.kaldi import read_mapping
from speechssl.data.manifest import read_manifest
from speechssl.errors import UserError

VERBS = {
    "validate": ["validate", "DATA", "--read-audio"],
    "embed": ["embed", "mfcc", "DATA", "--out", "OUT.npz"],
    "shard": ["shard", "DATA", "OUT"],
    "train": ["train", "dino-small", "data.train=[DATA]", "--out", "OUT", "train.steps=1"],
    "prepare": ["prepare", "folder", "DATA", "OUT"],
}
TABLES = ["wav.scp", "segments", "utt2dur", "utt2spk", "utt2emotion", "spk2utt", "trials"]
MEMORY = 6 << 30  # bytes of address space: torch alone maps some


def limit() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def run(words: Sequence[str], data: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """Run the command on a directory, in bounded memory and time."""
    words = [word.replace("DATA", str(data)).replace("OUT", str(out)) for word in words]
    command = [sys.executable, "-m", "speechssl", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, preexec_fn=limit)


def special_files(folder: Path) -> list[str]:
    """Make paths at which no audio can be read; return them."""
    os.mkfifo(folder / "fifo.wav")
    os.mkfifo(folder / "fifo.tar")
    os.mkfifo(folder / "fifo.m4a")
    (folder / "zero.wav").symlink_to("/dev/zero")
    (folder / "zero.m4a").symlink_to("/dev/zero")
    (folder / "zero.tar").symlink_to("/dev/zero")
    (folder / "loop.wav").symlink_to(folder / "loop.wav")
    (folder / "folder.wav").mkdir()
    names = ["fifo.wav", "fifo.m4a", "zero.wav", "zero.m4a", "loop.wav", "folder.wav", "-"]
    members = ["fifo.tar:0:9.wav", "zero.tar:0:999999999999.wav", "zero.tar:0:100.flac"]
    huge = f"zero.tar:{'9' * 5000}:1.wav"
    system = ["/etc/passwd", "/dev/zero", "/dev/stdin", "/dev/tty", "/proc/self/mem", "/proc/kmsg"]
    long_name = "x" * 10_000 + ".wav"
    return [*(str(folder / name) for name in [*names, *members, huge, long_name]), "-", *system]


@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_waits_for_or_is_filled_by_a_special_file(tmp_path: Path, verb: str) -> None:
    data = tmp_path / "data"
    data.mkdir()
    paths = special_files(data)
    (data / "wav.scp").write_text("".join(f"u{i} {path}\n" for i, path in enumerate(paths)))
    (data / "utt2spk").write_text("".join(f"u{i} u{i}\n" for i in range(len(paths))))
    (data / "utt2dur").write_text("".join(f"u{i} 3.0\n" for i in range(len(paths))))
    (data / "utterances.tsv").write_text("".join(["path\n", *(f"{path}\n" for path in paths)]))
    done = run(VERBS[verb], data, tmp_path / "out")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "speechssl: error:" in done.stderr.splitlines()[-1]


def test_no_reader_opens_a_special_file(tmp_path: Path) -> None:
    for path in special_files(tmp_path):
        with pytest.raises(UserError, match=r"\A[^\n]*\Z"):
            reading.info(path)


@pytest.mark.skipif(not os.path.isfile("/proc/version"), reason="needs Linux's /proc")
def test_a_file_of_the_kernel_is_not_opened() -> None:
    """/proc/kmsg is regular by its type; it gives what has happened, and then blocks for ever."""
    with suppress(OSError), open("/dev/kmsg", "w") as log:
        log.write("a line for the reader that comes first")
    for path in ("/proc/kmsg", "/proc/version"):
        with pytest.raises(UserError, match="file of the kernel"):
            reading.check(path)
        with pytest.raises(UserError, match="file of the kernel"):
            read_mapping(path)
        with pytest.raises(UserError, match="file of the kernel"):
            config.read(path)
        with pytest.raises(UserError, match="file of the kernel"):
            foreign_json.read(Path(path))
        with pytest.raises(UserError, match="no regular file"):
            foreign_yaml.read(path)


CHILD = """
import sys
from contextlib import suppress
from pathlib import Path
from speechssl.data.kaldi import read_mapping
from speechssl.data.manifest import read_manifest
from speechssl.data.validation import validate
from speechssl.errors import UserError
for data in sorted(Path(sys.argv[1]).iterdir()):
    print("validated" if validate(data) else "not a problem", end=" ")
    try:
        read_manifest(data, "all", on_bad="skip")
        print(data.name, "read")
    except UserError as error:
        print(data.name, repr(str(error)))
"""


def special_table(folder: Path, table: str, target: str, audio: Path) -> None:
    """Write a data directory of which one table is a device, FIFO, loop or folder."""
    folder.mkdir(parents=True)
    (folder / "wav.scp").write_text(f"u {audio}\n")
    (folder / "utt2spk").write_text("u u\n")
    (folder / table).unlink(missing_ok=True)
    if target == "fifo":
        os.mkfifo(folder / table)
    elif target == "folder":
        (folder / table).mkdir()
    elif target == "loop":
        (folder / table).symlink_to(table)
    else:
        (folder / table).symlink_to("/dev/zero")


def test_no_table_is_a_special_file(tmp_path: Path) -> None:
    audio = write_audio(tmp_path / "a.wav", noise(1.0))
    for table in TABLES:
        for target in ("zero", "fifo", "loop", "folder"):
            special_table(tmp_path / "data" / f"{table}-{target}", table, target, audio)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path / "data")],
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=limit,
    )
    assert done.returncode == 0, done.stderr[-500:]
    assert len(done.stdout.splitlines()) == 4 * len(TABLES)


def test_what_the_shell_hands_over_is_read(tmp_path: Path) -> None:
    audio = write_audio(tmp_path / "a.wav", noise(1.0))
    script = f"{sys.executable} -c 'import sys; from speechssl.data.kaldi import read_mapping;" + (
        f" print(read_mapping(sys.argv[1]))' <(echo u {audio})"
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout == f"{{'u': '{audio}'}}\n", done.stderr


def test_a_name_that_is_not_utf_8_is_trained_on(tmp_path: Path) -> None:
    from speechssl.data.dataset import CropBatches, CropSpec

    name = os.fsdecode(os.fsencode(tmp_path) + b"/a\xff.wav")
    write_audio(tmp_path / "a.wav", noise(1.0)).rename(name)
    (tmp_path / "wav.scp").write_bytes(b"u\xfe " + os.fsencode(name) + b"\n")
    utterances = read_manifest(tmp_path).utterances
    batch = CropBatches(utterances, [CropSpec(2, 0.5)], batch_size=1)[0]
    assert batch.skipped == []
