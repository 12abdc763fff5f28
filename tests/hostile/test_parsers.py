"""Parsers under random input: a UserError of one line or a result; what was written is read back."""

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from speechssl import config
from speechssl.audio import members
from speechssl.audio.remotes import Remotes
from speechssl.audio.tables import read_utterances_table
from speechssl.data.kaldi import read_mapping
from speechssl.data.manifest import Manifest, Utterance, read_manifest, write_manifest
from speechssl.data.trials import Trials, read_trials, write_trials
from speechssl.data.validation import validate
from speechssl.errors import UserError
from speechssl.text import markdown, printable, tsv_cell


@pytest.fixture(scope="module", autouse=True)
def no_lazy_modules() -> Iterator[None]:
    """Hide SpeechBrain's lazy modules: hypothesis looks at every module, which would import them."""
    lazy = {}
    for name, module in list(sys.modules.items()):
        if type(module).__module__ == "speechbrain.utils.importutils":
            lazy[name] = sys.modules.pop(name)
    yield
    sys.modules.update(lazy)


quick = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)

WORDS = [
    "a",
    "b",
    "target",
    "nontarget",
    "1",
    "0",
    "-1",
    "nan",
    "1e999",
    "|",
    "a.tar:0:9.wav",
    "\0",
]
WORDS += [
    "s3://b/a.tar:0:9.wav",
    "/dev/zero",
    "\ufeff",
    "\x1b[2J",
    "9" * 30,
    "\u202e",
    "..",
    "x" * 2000,
]
fields = st.one_of(st.sampled_from(WORDS), st.text(max_size=8))
lines = st.lists(st.lists(fields, max_size=5).map(" ".join), max_size=6).map("\n".join)
contents = st.one_of(st.binary(max_size=60), lines.map(lambda text: text.encode(errors="replace")))


def attempt(parse: Callable[[], object]) -> object:
    """Parse; a UserError must be one line that can be shown, anything else escapes."""
    try:
        return parse()
    except UserError as error:
        shown = printable(str(error))
        assert shown
        assert "\n" not in str(error), str(error)
        return None


@quick
@given(scp=contents, segments=contents, utt2dur=contents, utt2spk=contents, trials=contents)
def test_kaldi_directories(
    scp: bytes, segments: bytes, utt2dur: bytes, utt2spk: bytes, trials: bytes
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "wav.scp").write_bytes(scp)
        (folder / "utt2dur").write_bytes(utt2dur)
        (folder / "utt2spk").write_bytes(utt2spk)
        (folder / "trials").write_bytes(trials)
        for with_segments in (False, True):
            if with_segments:
                (folder / "segments").write_bytes(segments)
            for on_bad in ("raise", "skip"):
                attempt(lambda o=on_bad: read_manifest(folder, "all", on_bad=o, check_files=False))
            for problem in validate(folder):
                assert "\n" not in problem
        attempt(lambda: read_mapping(folder / "utt2spk"))


@quick
@given(contents)
@example(b"a b target\n" + b"c" * 5000 + b" d target\n")
def test_trials(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "trials").write_bytes(content)
        attempt(lambda: read_trials(Path(name) / "trials"))


@quick
@given(contents.map(lambda content: b"path\tkind\n" + content.replace(b" ", b"\t")))
def test_utterances_tables(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "utterances.tsv").write_bytes(content)
        attempt(lambda: read_utterances_table(Path(name) / "utterances.tsv"))


KEYS = [
    "train.steps",
    "a",
    "a.b",
    "encoder",
    "a[0]",
    "a.",
    ".a",
    "data.train",
    "method.predictor.x",
]
VALUES = [
    "1",
    "${a}",
    "${oc.env:HOME}",
    "[1,",
    "{a: 1",
    "*x",
    "&x [*x]",
    "!!python/name:os.system",
    "=",
]
keys = st.one_of(st.sampled_from(KEYS), st.text(max_size=10))
values = st.one_of(st.sampled_from(VALUES), st.text(max_size=12))


@quick
@given(st.lists(st.tuples(keys, st.sampled_from(["=", "", "=="]), values).map("".join), max_size=3))
@example(["a=[]", "a[0].b=1"])
@example(["a=[]", "a[0]=1"])
def test_overrides(overrides: list[str]) -> None:
    attempt(lambda: config.read("", overrides))


@quick
@given(
    st.one_of(st.text(max_size=30), st.from_regex(r"[\s\S]{0,5}\.tar:\d{1,25}:\d{1,25}\.\w{1,5}"))
)
@example(f"a.tar:{'9' * 5000}:1.wav")
def test_addresses_of_members(name: str) -> None:
    member = members.parse(name)
    if member is not None:
        assert members.parse(str(member)) == member
        attempt(lambda: member.fetch(0, 1))


archives = st.text(min_size=1, max_size=9).map(lambda name: f"{name}.tar")
numbers = st.integers(0, 10**18 - 1)


@quick
@given(archives, numbers, numbers)
def test_the_address_of_a_member_names_it(archive: str, offset: int, size: int) -> None:
    member = members.Member(archive, offset, size, ".flac")
    assert members.parse(str(member)) == member


@quick
@given(
    st.text(max_size=25),
    st.lists(st.sampled_from(["s3://b/", "s3://b", "https://h/x"]), max_size=2),
)
def test_what_is_allowed_begins_with_a_prefix(rest: str, prefixes: list[str]) -> None:
    remotes = Remotes(prefixes)
    for start in ("s3://b", "s3://b/", "https://h/x", "https://h", ""):
        address = start + rest
        if remotes.allow(address):
            inside = [
                p for p in prefixes if address == p or address.startswith(p.rstrip("/") + "/")
            ]
            assert inside and ".." not in address.split("/") and "::" not in address


@quick
@given(st.text(max_size=30))
def test_prefixes(prefix: str) -> None:
    attempt(lambda: Remotes([prefix]))


@quick
@given(st.text(max_size=40))
def test_shown_text_is_one_line(text: str) -> None:
    for shown in (printable(text), markdown(text)):
        assert shown.isprintable()
    assert not set(tsv_cell(text)) & set("\t\n\r")
    assert not tsv_cell(text).startswith(("=", "+", "-", "@"))


seen = st.characters(blacklist_categories=["Cs", "Cc", "Z"])
ids = st.text(seen, min_size=1, max_size=8).filter(lambda name: name.split() == [name])
milliseconds = st.integers(1, 10**7).map(lambda number: number / 1000)
paths = st.text(st.one_of(seen, st.just(" ")), min_size=1, max_size=12).filter(
    lambda path: path == path.strip() and not path.endswith("|") and "://" not in path
)
labels = st.text(st.one_of(seen, st.just(" ")), min_size=1, max_size=6).filter(
    lambda value: value == value.strip()
)


@quick
@given(st.dictionaries(ids, st.tuples(paths, milliseconds, labels), min_size=1, max_size=5))
def test_a_directory_that_was_written_is_read_back(rows: dict[str, tuple[str, float, str]]) -> None:
    utterances = [Utterance(name, path, seconds=s) for name, (path, s, _) in sorted(rows.items())]
    tables = {
        "spk": {name: name for name in rows},
        "emotion": {name: label for name, (_, _, label) in rows.items()},
    }
    with tempfile.TemporaryDirectory() as folder:
        write_manifest(Manifest(utterances, tables), folder)
        read = read_manifest(folder, "all", check_files=False)
    assert read.utterances == utterances
    assert read.labels == tables
    assert read.skipped == []


@quick
@given(st.dictionaries(ids, st.tuples(paths, milliseconds, milliseconds), min_size=1, max_size=5))
def test_segments_that_were_written_are_read_back(
    rows: dict[str, tuple[str, float, float]],
) -> None:
    utterances = []
    for name, (path, start, seconds) in sorted(rows.items()):
        utterances.append(Utterance(name, path, start, start + seconds, seconds))
    with tempfile.TemporaryDirectory() as folder:
        write_manifest(Manifest(utterances), folder)
        read = read_manifest(folder, check_files=False)
    assert [(u.id, u.path) for u in read] == [(u.id, u.path) for u in utterances]
    for one, other in zip(read, utterances, strict=True):
        assert one.start == pytest.approx(other.start, abs=1e-6)
        assert one.stop == pytest.approx(other.stop, abs=1e-6)


@pytest.mark.parametrize("path", [" a", "a ", "a\t", "a\n", "a\r", "a\0", ""])
def test_a_path_that_would_be_read_as_another_is_not_written(tmp_path: Path, path: str) -> None:
    with pytest.raises(UserError, match="cannot stand in wav.scp"):
        write_manifest(Manifest([Utterance("a", path, seconds=1.0)]), tmp_path)


@quick
@given(
    st.lists(st.tuples(ids, ids, st.booleans()), min_size=1, max_size=6),
    st.sampled_from(["kaldi", "voxceleb"]),
)
def test_trials_that_were_written_are_read_back(
    rows: list[tuple[str, str, bool]], style: str
) -> None:
    import numpy as np

    enrol, test, target = (np.array(column) for column in zip(*rows, strict=True))
    with tempfile.TemporaryDirectory() as folder:
        write_trials(Trials(enrol, test, target), Path(folder) / "trials", style)
        read = read_trials(Path(folder) / "trials")
    assert read.enrol.tolist() == enrol.tolist()
    assert read.test.tolist() == test.tolist()
    assert read.target.tolist() == target.tolist()
