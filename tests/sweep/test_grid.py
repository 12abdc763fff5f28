"""The runs of a sweep and their names."""

from __future__ import annotations

from pathlib import Path

import pytest

from speechssl.errors import UserError
from speechssl.sweep.grid import folder_name, plan, read_arms, read_words


def names(*words: str) -> list[str]:
    return [run.name for run in plan(*read_words(words))]


def test_every_combination_once_with_the_seed_last() -> None:
    runs = plan(
        *read_words(["seed=0..2", "method=dino,byol", "train.steps=5", "optimizer.lr=1e-3,2"])
    )
    assert len(runs) == 12 and len({run.overrides for run in runs}) == 12
    assert [run.name for run in runs[:4]] == [
        "method=dino,lr=1e-3,seed=0",
        "method=dino,lr=1e-3,seed=1",
        "method=dino,lr=1e-3,seed=2",
        "method=dino,lr=2,seed=0",
    ]
    first = runs[0]
    assert (first.setting, first.seed) == ("method=dino,lr=1e-3", 0)
    assert first.overrides == ("train.steps=5", "method=dino", "optimizer.lr=1e-3", "seed=0")


def test_commas_in_brackets_and_quotes_part_nothing() -> None:
    fixed, axes = read_words(
        ["data.train=[a,b]", "method={name: dino, k: 1},{name: byol}", "x='a,b'"]
    )
    assert fixed == ["data.train=[a,b]", "x='a,b'"]
    assert axes == {"method": ["{name: dino, k: 1}", "{name: byol}"]}


def test_paths_with_dots_are_no_ranges() -> None:
    assert read_words(["data.train=../data", "a=0.1..0.2"]) == (
        ["data.train=../data", "a=0.1..0.2"],
        {},
    )


def test_one_seed_is_a_seed_and_without_any_there_is_one_run() -> None:
    assert names("seed=3", "a=1") == ["seed=3"]
    assert names("a=1") == ["run"]
    assert names("encoder.width=1,2", "method.width=3,4")[0] == "encoder.width=1,method.width=3"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method"], "is not key=value"),
        (["a=1,2", "a=3"], "a stands there twice"),
        (["a=3", "a=1,2"], "a stands there twice"),
        (["a=1,1"], "has the value '1' twice"),
        (["seed=0,00"], "seed has the values '0' and '00', which are one number"),
        (["seed=0..4,03"], "has the values '3' and '03'"),
        (["lr=1e-3,0.001"], "has the values '1e-3' and '0.001'"),
        (["seed=4..0"], "smaller number first"),
        (["seed=0..20000"], "at most 10,000"),
        (["seed=0..999", "a=0..999"], "more than 10000 runs"),
        (["seed=x,y"], "whole numbers"),
        (["seed="], "empty value"),
        (["a=1,2,"], "empty value"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        plan(*read_words(words))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text", ["../../etc", "a/b", "", "-rf", "x" * 300, "a b\n", ".hidden", "é"]
)
def test_a_name_is_one_folder_whatever_it_is_made_of(text: str) -> None:
    name = folder_name(text)
    assert Path(name).name == name and name not in (".", "..") and len(name) <= 120
    assert not name.startswith(("-", ".")) or text == ""
    assert folder_name(text + "!") != name


def test_arms_are_settings_that_change_together(tmp_path: Path) -> None:
    table = tmp_path / "arms.tsv"
    table.write_text(
        "# arms\n\none\tmethod={name: dimcl, base: {name: byol}} lr=1\ntwo\tmethod=dino\n"
    )
    arms = read_arms(table)
    assert arms["one"] == ["method={name: dimcl, base: {name: byol}}", "lr=1"]
    runs = plan(*read_words(["seed=0,1", "steps=3"]), arms)
    assert [run.name for run in runs] == ["one,seed=0", "one,seed=1", "two,seed=0", "two,seed=1"]
    assert runs[2].overrides == ("method=dino", "steps=3", "seed=0") and runs[2].setting == "two"
    assert list(read_arms(table, ["two"])) == ["two"]
    with pytest.raises(UserError, match=r"no arm 'tow' .*did you mean 'two'"):
        read_arms(table, ["tow"])
    table.write_text("no tab\n")
    with pytest.raises(UserError, match="line 1"):
        read_arms(table)


def test_the_arms_of_the_methods_recipe_are_read() -> None:
    from builders import ROOT

    arms = read_arms(ROOT / "recipes/methods/conf/arms.tsv")
    assert arms["dimcl-byol"][0].startswith("method={name: dimcl") and len(arms) > 30
