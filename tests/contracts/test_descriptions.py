"""What `speechssl list` says of every part of every folder."""

import inspect

import pytest

from speechssl import config, parts
from speechssl.interfaces import Diagnostic, ForeignFormat

EVERY = [(folder, name) for folder in parts.FOLDERS for name in parts.names(folder)]


@pytest.mark.parametrize(("folder", "name"), EVERY)
def test_its_description_is_one_line_that_ends_in_a_full_stop(folder, name):
    said = parts.descriptions(folder)[name]
    assert said.endswith("."), said
    assert 20 < len(said) <= 120, said
    assert said[0].isupper() or said.startswith("k-means"), said


@pytest.mark.parametrize(("folder", "name"), EVERY)
def test_its_settings_are_typed(folder, name):
    """A setting without an annotation could not be checked."""
    part = parts.find(folder, name)
    if isinstance(part, Diagnostic | ForeignFormat):
        return
    hints = {key: kind for key, (kind, _) in config.schema(part).items()}
    assert inspect.Parameter.empty not in hints.values(), hints
