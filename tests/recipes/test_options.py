"""egs/options.sh: the command line of the run scripts, and that each says what it accepts."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.builders import ROOT

SCRIPTS = sorted(
    str(path.relative_to(ROOT)) for path in ROOT.glob("*/*/run.sh") if path.parts[-3] != "tests"
)

SCRIPT = """#!/usr/bin/env bash
# A script.
#   bash run.sh [--data DIR] [--stop-stage N] [--telephone] [key=value ...]
set -euo pipefail
source "{options}"
data="" stage=1 stop_stage=3 exp=here telephone=false
read_options "--data --stage --stop-stage --exp-dir:exp --telephone {more}" "$@"
for value in "$PWD" "$data" "$stop_stage" "$exp" "$telephone" "${{overrides[*]}}" "${{names[*]}}"; do
    echo "$value"
done
"""


def bash(script: Path, *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(script), *words], capture_output=True, text=True, cwd=cwd or script.parent
    )


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "run.sh"
    path.write_text(SCRIPT.format(options=ROOT / "egs" / "options.sh", more="key=value"))
    return path


def test_options_set_their_variables_in_any_order(script: Path) -> None:
    done = bash(script, "a.b=1 2", "--stop-stage", "2", "--telephone", "--exp-dir", "x y", "c=--d")
    assert done.stderr == ""
    assert done.stdout.splitlines() == [str(ROOT), "", "2", "x y", "true", "a.b=1 2 c=--d", ""]


def test_a_switch_that_comes_twice_takes_no_word(script: Path) -> None:
    done = bash(script, "--telephone", "--telephone", "--exp-dir", "x")
    assert done.stdout.splitlines()[3:5] == ["x", "true"]


def test_seconds_are_noted_whatever_the_locale_puts_between_them(tmp_path: Path) -> None:
    """bash writes EPOCHREALTIME with a comma where numbers have one."""
    script = tmp_path / "run.sh"
    script.write_text(
        "set -euo pipefail\n"
        f"exp={tmp_path} stage=1 stop_stage=1\n"
        f'source "{ROOT}/egs/stages.sh"\n'
        "unset EPOCHREALTIME; EPOCHREALTIME=1700000000,950000\n"
        "later() { EPOCHREALTIME=1700000012,300000; }\n"
        "run 1 work later\n"
    )
    done = bash(script)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "seconds.tsv").read_text() == "work\t11.3\n"


def test_a_value_may_look_like_a_setting_or_an_option(script: Path) -> None:
    done = bash(script, "--data", "key=value", "--exp-dir", "--telephone")
    assert done.stdout.splitlines()[1:5] == ["key=value", "3", "--telephone", "false"]


def test_names_where_they_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "run.sh"
    path.write_text(SCRIPT.format(options=ROOT / "egs" / "options.sh", more="NAME"))
    assert bash(path, "one", "--data", "d", "two").stdout.splitlines()[-1] == "one two"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--date", "x"], "run.sh: '--date' is not an option"),
        (["--data=x"], "run.sh: '--data=x' is not an option"),
        (["word"], "run.sh: 'word' is not an option"),
        (["--data"], "run.sh: --data needs a value after it"),
        (["--stage", "two"], "run.sh: --stage and --stop-stage are numbers"),
    ],
)
def test_a_mistake_ends_it_with_a_line(script: Path, words: list[str], said: str) -> None:
    done = bash(script, *words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines()[0] == said


def test_help_is_the_comment_at_the_top_from_wherever_it_is_called(script: Path) -> None:
    relative = Path(os.path.relpath(script, "/tmp"))
    done = bash(relative, "--help", cwd=Path("/tmp"))
    assert done.returncode == 0
    assert done.stderr.splitlines() == [
        "A script.",
        "  bash run.sh [--data DIR] [--stop-stage N] [--telephone] [key=value ...]",
    ]


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_reads_what_its_comment_says(name: str) -> None:
    text = (ROOT / name).read_text()
    comment, _, code = text.partition("\nset -euo pipefail\n")
    (accepted,) = re.findall(r'^read_options "(.*?)" "\$@"', code, flags=re.DOTALL | re.MULTILINE)
    options = {word.partition(":")[0] for word in accepted.split() if word.startswith("--")}
    usage = "\n".join(re.findall(r"^# {2,}.*", comment, flags=re.MULTILINE))
    assert set(re.findall(r"--[a-z0-9-]+", usage)) == options
    assert ("[key=value ...]" in usage or "key=value ..." in usage) == ("key=value" in accepted)
    assert "while ((" not in code, "an option loop of its own"


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_refuses_an_option_that_it_has_not(name: str, tmp_path: Path) -> None:
    done = bash(Path(os.path.relpath(ROOT / name, tmp_path)), "--nonsense", cwd=tmp_path)
    assert done.returncode == 2
    assert f"bash {name}" in done.stderr
