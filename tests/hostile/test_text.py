"""Ids, labels and paths of somebody else's in what people read: text, never markup or a formula."""

from pathlib import Path

import pytest
from builders import make_model, noise, write_audio
from markdown_it import MarkdownIt

from speechssl.__main__ import main
from speechssl.files import write_skipped
from speechssl.report.results import markdown_table
from speechssl.text import markdown, printable, tsv_cell

HOSTILE = {
    "html": "<script>alert(1)</script>",
    "an image": "<img src=x onerror=alert(1)>",
    "an entity": "&lt;b&gt;&#60;",
    "emphasis": "*a* **b** _c_ __d__ ~~e~~",
    "code": "`rm -rf` ``x``",
    "a link": "[click](http://evil) ![i](http://evil/i.png) [a][b] [a]: http://evil",
    "an address": "see https://evil.example/x or www.evil.example or a@evil.example",
    "an address in brackets": "<https://evil.example>",
    "a mention": "@everyone #1",
    "a cell": "a | b || c",
    "a backslash": "\\*a\\* \\| \\",
    "a line": "a\n\n# heading\n- list\n\n```\ncode",
    "a return": "a\rb\x0bc\x0cd\x85e\u2028f\u2029g",
    "a tab": "a\tb",
    "mathematics": "$x$ $$y$$",
    "right to left": "abc\u202egpj.exe\u2066x\u2069",
    "no width": "a\u200bb\u200d\ufeffc\u00ad",
    "a surrogate": "latin-\udce9",
    "a terminal": "\x1b[2J\x1b]0;title\x07 \x9b31m \x08\x7f",
    "zero": "a\0b",
}
SEEN = {
    "a line",
    "a return",
    "a tab",
    "right to left",
    "no width",
    "a surrogate",
    "a terminal",
    "zero",
}
FORMULAS = [
    "=cmd()",
    "+1",
    "@x",
    "-2",
    " =1+1",
    '=HYPERLINK("http://evil")',
    "-2+3+cmd|' /C calc'!A0",
]


def unsafe(text: str) -> list[str]:
    """Characters that a person does not see, or that a terminal obeys."""
    return [letter for letter in text if not letter.isprintable()]


@pytest.mark.parametrize("name", HOSTILE)
def test_markdown_shows_the_text_itself(name: str) -> None:
    text = HOSTILE[name]
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    tokens = parser.parse(markdown_table(["id", "x"], [[text, "1"]]))
    cells = [t for t in tokens if t.type == "inline"]
    assert len(cells) == 4  # two of the head, two of the row
    kinds = {child.type for child in cells[2].children or []}
    assert kinds <= {"text", "text_special"}, kinds
    shown = "".join(child.content for child in cells[2].children or [])
    assert shown == printable(text).strip()
    assert not unsafe(markdown(text))
    heading = parser.parse(f"## {markdown(text)}\n\nafter\n")
    assert [t.type for t in heading if t.type.endswith("_open")] == [
        "heading_open",
        "paragraph_open",
    ]


@pytest.mark.parametrize(
    "address", ["https://evil.example", "HTTP://e.x", "www.e.x", "a@e.x", "ftp://e.x"]
)
def test_markdown_makes_no_link_of_an_address(address: str) -> None:
    """GitHub makes links of what looks like an address."""
    linkified = ("http://", "https://", "ftp://", "www.", "@")
    assert not any(start in markdown(address).lower() for start in linkified)


@pytest.mark.parametrize(
    "name", ["id00012/a-b/00001.wav", "dino-small", "4.38 [4.10, 4.62]", "a_b", "-", "İ"]
)
def test_usual_names_stay_as_they_are(name: str) -> None:
    assert markdown(name) == printable(name) == name


@pytest.mark.parametrize("name", HOSTILE)
def test_a_line_of_a_terminal_or_table_stays_one(name: str) -> None:
    text = HOSTILE[name]
    assert not unsafe(printable(text))
    assert (printable(text) == text) == (name not in SEEN)
    cell = tsv_cell(text)
    assert not unsafe(cell.encode("utf-8", "surrogateescape").decode("utf-8", "ignore"))


@pytest.mark.parametrize("formula", FORMULAS)
def test_a_cell_is_no_formula(formula: str, tmp_path: Path) -> None:
    assert tsv_cell(formula) == f"'{formula}"
    write_skipped(tmp_path / "skipped.tsv", [(formula, formula)])
    assert (tmp_path / "skipped.tsv").read_text() == f"'{formula}\t'{formula}\n"


def hostile_directory(folder: Path) -> Path:
    """Write a Kaldi directory with hostile ids (no white space), the first one readable."""
    audio = write_audio(folder / "a.wav", noise(1.0))
    ids = ["".join(text.split()) for text in [*HOSTILE.values(), *FORMULAS]]
    rows = {name.replace("\0", ""): "/none" for name in ids}
    rows["good\x1b[2J\udce9"] = str(audio)
    lines = [f"{name} {path}\n" for name, path in rows.items()]
    text = "".join(lines)
    (folder / "wav.scp").write_bytes(text.encode("utf-8", "surrogateescape"))
    return folder


def test_no_verb_prints_what_a_terminal_obeys(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = hostile_directory(tmp_path)
    assert main(["validate", str(data)]) == 2
    assert main(["embed", "mfcc", str(data), "--out", str(tmp_path / "e.npz")]) == 0
    assert main(["embed", "mfcc", str(data), "--out", str(tmp_path / "s.npz"), "--strict"]) == 2
    assert main(["shard", str(data), str(tmp_path / "shards")]) == 0
    assert main(["validate", "/none\x1b[2J\nx"]) == 2
    assert main(["train", "/none\x1b[2J\nx", "--out", str(tmp_path / "run")]) == 2
    captured = capfd.readouterr()
    for line in (captured.out + captured.err).split("\n"):
        assert not unsafe(line), repr(line)
    for name in ("e.npz.failed", "shards/skipped.tsv"):
        text = (tmp_path / name).read_text(encoding="utf-8", errors="replace")
        for line in text.splitlines():
            assert not any(cell.startswith(("=", "+", "-", "@")) for cell in line.split("\t")), line
            assert not unsafe(line.replace("\t", "")), repr(line)


@pytest.mark.parametrize("suffix", [".npz", ".ark", ".parquet"])
def test_ids_that_are_not_utf_8_end_in_no_traceback(tmp_path: Path, suffix: str) -> None:
    audio = write_audio(tmp_path / "a.wav", noise(1.0))
    (tmp_path / "wav.scp").write_bytes(b"u\xe9 " + str(audio).encode() + b"\n")
    assert main(["embed", "mfcc", str(tmp_path), "--out", str(tmp_path / f"e{suffix}")]) in (0, 2)


def test_the_model_card_shows_what_a_model_says_of_itself(tmp_path: Path) -> None:
    about = dict(enumerate_names())
    make_model(about=about).save(tmp_path / "model")
    out = tmp_path / "<script>x"
    assert main(["export", str(tmp_path / "model"), "--to", "huggingface", "--out", str(out)]) == 0
    card = (out / "README.md").read_text(encoding="utf-8").split("---", 2)[2]
    tokens = MarkdownIt("commonmark", {"html": True}).parse(card)
    kinds = set()
    for token in tokens:
        kinds.add(token.type)
        kinds.update(child.type for child in token.children or [])
    assert not kinds & {"html_block", "html_inline", "link_open", "image", "em_open", "strong_open"}


def enumerate_names() -> list[tuple[str, str]]:
    yaml_holds = [name for name in HOSTILE if name not in ("zero", "a surrogate")]
    return [(f"note {name} <b>", HOSTILE[name]) for name in yaml_holds]
