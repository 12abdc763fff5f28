"""YAML of strangers: what a configuration holds is read, and nothing is expanded."""

import pytest
import yaml

from speechssl import foreign_yaml
from speechssl.errors import UserError


def test_what_was_dumped_is_read(tmp_path):
    config = {
        "encoder": {"name": "ecapa", "dilations": [1, 2, 3], "ratio": 1e-7, "pooling": None},
        "about": {"text": "äöü: 'quoted' $5 {x}", "yes": True, "commit": "0123e45"},
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    assert foreign_yaml.read(path) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: ${oc.env:HOME}", "is not expanded"),
        ("a: [{b: 'x${oc.env:HOME}y'}]", "is not expanded"),
        ("${oc.env:HOME}: 3", "is not expanded"),
        ("a: &x [1]\nb: *x", "line 2: an alias"),
        ("a: !!python/name:os.system", "line 1: a tag"),
        ("a: !!binary aGVsbG8=", "a tag"),
        ("a: " + "[" * 31 + "]" * 31, "nested over 30"),
        ("a: " + "[" * 200_000, "nested over 30"),
        ("a: " + "x" * (1 << 20), "longer than"),
        ("a: [" + "1, " * 20_001 + "]", "over 20000 keys and values"),
        ("3: a", "no string"),
        ("- a", "must be a mapping"),
        ("", "must be a mapping"),
        ("a: [", "is not YAML"),
        ("a: \0", "is not YAML"),
        ("a: 2001-99-99", "is not YAML"),
    ],
)
def test_all_else_is_one_line(tmp_path, monkeypatch, text, message):
    monkeypatch.setenv("HOME", "/secret")
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as refused:
        foreign_yaml.read(path)
    assert "\n" not in str(refused.value)
    assert "secret" not in str(refused.value)


def test_a_missing_file_and_bytes_are_one_line(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        foreign_yaml.read(tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"a: \xff")
    with pytest.raises(UserError, match="not UTF-8"):
        foreign_yaml.read(tmp_path / "bytes.yaml")
