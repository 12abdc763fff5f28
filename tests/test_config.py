"""Settings: what a constructor says is what a file may say, and nothing else."""

import sys
import textwrap
from pathlib import Path
from typing import Literal

import pytest

from speechssl import config, parts
from speechssl.errors import UserError


class Part:
    """Every kind of setting."""

    def __init__(
        self,
        mels: int,
        *,
        needed: int,
        rate: float = 0.5,
        flag: bool = False,
        text: str = "a",
        perhaps: float | None = None,
        sizes: list[int] = [1, 2],  # noqa: B006
        kind: Literal["one", "two"] = "one",
        _private: int = 3,
    ) -> None:
        self.mels, self.needed, self.sizes = mels, needed, sizes


def check(**values):
    return config.check(Part, {"needed": 1, **values}, "part")


def written(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(textwrap.dedent(text))
    return path


def test_the_schema_is_the_keyword_only_parameters():
    fields = config.schema(Part)
    assert list(fields) == ["needed", "rate", "flag", "text", "perhaps", "sizes", "kind"]
    assert fields["rate"] == (float, 0.5)


def test_defaults_are_filled_in_and_not_shared():
    first, second = check(), check()
    assert first == {
        "needed": 1, "rate": 0.5, "flag": False, "text": "a", "perhaps": None, "sizes": [1, 2], "kind": "one"
    }  # fmt: skip
    first["sizes"].append(3)
    assert second["sizes"] == [1, 2] and check()["sizes"] == [1, 2]


def test_values_of_the_right_type_are_taken():
    got = check(rate=1, perhaps=1e-3, sizes=[5], kind="two", flag=True)
    assert got["rate"] == 1.0 and isinstance(got["rate"], float)
    assert (got["perhaps"], got["sizes"], got["kind"], got["flag"]) == (1e-3, [5], "two", True)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("needed", "many"), ("needed", 1.5), ("rate", "fast"), ("flag", "maybe"), ("perhaps", "no"),
        ("sizes", ["x"]), ("sizes", 4), ("kind", "three"), ("rate", None), ("text", {"a": 1}),
        ("_private", 1),
    ],
)  # fmt: skip
def test_a_wrong_value_is_one_line_with_the_key_path(key, value):
    with pytest.raises(UserError) as error:
        check(**{key: value})
    assert f"part.{key}" in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_key_is_refused_with_its_path_and_the_nearest_spelling():
    with pytest.raises(UserError, match=r"unknown key part\.szies \(did you mean 'sizes'\?\)"):
        check(szies=[1])


def test_a_missing_required_key_is_named():
    with pytest.raises(UserError, match=r"part\.needed is missing"):
        config.check(Part, {}, "part")


def test_names_are_the_modules_of_the_folder():
    assert {"ecapa", "resnet"} <= set(parts.names("encoders"))
    assert not any(name.startswith("_") for name in parts.names("encoders"))


def test_an_unknown_part_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match=r"did you mean 'resnet'.*known: .*ecapa"):
        parts.find("encoders", "resnte")
    with pytest.raises(UserError, match=r"encoder\.name is missing"):
        parts.check("encoders", {"width": 4}, "encoder")


def test_a_part_outside_the_package_is_a_dotted_path(tmp_path, monkeypatch):
    (tmp_path / "outside.py").write_text(
        "class Mine:\n    def __init__(self, mels, *, size: int = 2):\n        self.got ="
        " mels, size\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert parts.build("encoders", {"name": "outside:Mine", "size": 5}, 80).got == (80, 5)
    with pytest.raises(UserError, match="unknown key encoders.sze"):
        parts.build("encoders", {"name": "outside:Mine", "sze": 5}, 80)
    for name in ("outside:Other", "nowhere:Mine"):
        with pytest.raises(UserError, match="package.module:Class"):
            parts.find("encoders", name)
    sys.modules.pop("outside", None)


def test_numbers_in_exponent_form_are_numbers(tmp_path):
    path = written(tmp_path, "optimizer: {lr: 1e-3, weight_decay: 5E-4}\n")
    assert config.read(path)["optimizer"] == {"lr": 0.001, "weight_decay": 0.0005}
    assert config.read(path, ["optimizer.lr=2e-4"])["optimizer"]["lr"] == 2e-4


def test_overrides_replace_and_the_last_wins(tmp_path):
    path = written(tmp_path, "a: {b: 1, c: [1, 2]}\nd: x\n")
    got = config.read(path, ["a.b=2", "a.b=3", "a.c=[7]", "e.f=true", "d=null"])
    assert got == {"a": {"b": 3, "c": [7]}, "d": None, "e": {"f": True}}


def test_naming_another_part_drops_the_settings_of_the_old_one(tmp_path):
    path = written(tmp_path, "encoder: {name: ecapa, width: 32}\n")
    assert config.read(path, ["encoder=resnet"])["encoder"] == {"name": "resnet"}
    assert config.read(path, ["encoder=ecapa"])["encoder"] == {"name": "ecapa", "width": 32}
    assert config.read(path, ["encoder=resnet", "encoder.width=8"])["encoder"] == {
        "name": "resnet",
        "width": 8,
    }


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [1\n", "a: b: c\n", "a: ${nowhere}\n"])
def test_a_file_that_is_no_mapping_is_one_line(tmp_path, text):
    with pytest.raises(UserError) as error:
        config.read(written(tmp_path, text))
    assert "c.yaml" in str(error.value) and "\n" not in str(error.value)


def test_a_file_that_is_missing_or_binary_is_one_line(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        config.read(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="cannot read"):
        config.read(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(UserError, match="binary.yaml"):
        config.read(tmp_path / "binary.yaml")


@pytest.mark.parametrize("item", ["train.steps", "=3", "a.b=[1"])
def test_a_bad_override_is_named(tmp_path, item):
    with pytest.raises(UserError, match="override"):
        config.read(written(tmp_path, "a: {b: 1}\n"), [item])


def test_freeze_is_read_only_all_the_way_down_and_thaw_copies(tmp_path):
    plain = {"a": {"b": [1, {"c": 2}]}, "d": None}
    frozen = config.freeze(plain)
    with pytest.raises(TypeError):
        frozen["a"]["b"] = 1
    with pytest.raises(TypeError):
        frozen["a"]["b"][1]["c"] = 1
    thawed = config.thaw(frozen)
    assert thawed == plain
    thawed["a"]["b"].append(1)
    assert config.thaw(frozen) == plain


def test_what_is_written_reads_back_equal(tmp_path):
    value = {
        "a": {"x": 1e-4, "y": [1, 2], "z": None, "flag": False},
        "name": "é ü",
        "data": ["dir with space"],
    }
    config.write(config.freeze(value), tmp_path / "out.yaml")
    assert config.read(tmp_path / "out.yaml") == value


def test_a_part_within_a_part_is_named_filled_in_and_overridden(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("method: {name: byol, predictor: mlp}\n")
    read = config.read(file, ["method.predictor.hidden=7"])
    checked = parts.check("methods", read["method"], "method")
    assert checked["predictor"] == {
        "name": "mlp",
        "hidden": 7,
        "batchnorm": True,
        "constant_lr": False,
    }
    read = config.read(file, ["method.predictor=directpred", "method.predictor.epsilon=0.3"])
    checked = parts.check("methods", read["method"], "method")
    assert checked["predictor"]["name"] == "directpred" and checked["predictor"]["epsilon"] == 0.3
    assert parts.check("methods", checked, "method") == checked
    with pytest.raises(UserError, match=r"method.predictor.epsilonn \(did you mean 'epsilon'"):
        read = config.read(file, ["method.predictor=directpred", "method.predictor.epsilonn=0.3"])
        parts.check("methods", read["method"], "method")


def test_parts_nest_deeper():
    section = {"name": "dimcl", "base": {"name": "byol", "predictor": "offdiag"}}
    checked = parts.check("methods", section, "method")
    assert checked["base"]["predictor"]["name"] == "offdiag" and checked["base"]["hidden"] == 512
    with pytest.raises(UserError, match="method.base.predictor.scale"):
        section["base"]["predictor"] = {"name": "offdiag", "scale": 1}
        parts.check("methods", section, "method")


def test_a_frozen_part_within_a_part_can_be_built():
    frozen = config.freeze({"name": "byol", "predictor": {"name": "mlp", "hidden": 4}})
    assert parts.check("methods", frozen, "method")["predictor"]["hidden"] == 4


def test_overrides_from_python_are_those_of_the_command_line(tmp_path):
    given = {
        "method": "byol",
        "method.predictor": "directpred",
        "data.train": [tmp_path / "a b", "c"],
        "train.init": None,
        "train.steps": 7,
        "optimizer.lr": 1e-3,
        "data.pseudo_labels": Path("1e3"),  # a file of that name, not the number 1000
        "augment": {"noise": "x: y"},
    }
    words = config.as_words(given)
    assert words[:2] == ["method=byol", "method.predictor=directpred"]
    (tmp_path / "base.yaml").write_text("method: {name: dino}\n")
    read = config.read(tmp_path / "base.yaml", words)
    assert read == {
        "method": {"name": "byol", "predictor": "directpred"},
        "data": {"train": [str(tmp_path / "a b"), "c"], "pseudo_labels": "1e3"},
        "train": {"init": None, "steps": 7},
        "optimizer": {"lr": 0.001},
        "augment": {"noise": "x: y"},
    }
    assert config.as_words(["a=b"]) == ["a=b"]
