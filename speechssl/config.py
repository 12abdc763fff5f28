"""Settings: plain YAML and ``key=value`` overrides, checked against the code that reads them.

The keyword-only parameters of a constructor are its settings: their annotations are the
types, and their defaults the defaults. There is no second list of them, so every key
that a file may contain is read by some constructor; any other key is refused with its
full path and the nearest spelling. Parts (encoder, method, clusterer, ...) are found
and built by ``speechssl.parts``.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from speechssl.errors import UserError
from speechssl.regular import refuse_special_file
from speechssl.text import nearest

T = TypeVar("T")


def schema(part: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    """Return the settings of a class or function: keyword-only parameter -> (type, default).

    A parameter without a default has ``dataclasses.MISSING``. Keyword-only parameters
    whose name starts with an underscore are not settings.
    """
    target = part.__init__ if inspect.isclass(part) else part
    types = typing.get_type_hints(target)
    settings = {}
    for parameter in inspect.signature(target).parameters.values():
        if parameter.kind is not parameter.KEYWORD_ONLY or parameter.name.startswith("_"):
            continue
        default = parameter.default
        if default is parameter.empty:
            default = dataclasses.MISSING
        settings[parameter.name] = (types.get(parameter.name, Any), default)
    return settings


def build(kind: Callable[..., T], values: Mapping[str, Any], where: str) -> T:
    """Check ``values`` and construct ``kind`` from them, a dataclass of settings.

    Lists and mappings among the values become read-only.

    Args:
        kind: class whose keyword-only parameters are the schema.
        values: what the user wrote.
        where: path of this section in the file, for messages (``data``).

    Raises:
        UserError: as for ``check``, or as ``kind`` raises it.
    """
    checked = check(kind, values, where)
    return kind(**freeze(checked))


def check(
    part: Callable[..., Any], values: Mapping[str, Any], where: str, hint: str = ""
) -> dict[str, Any]:
    """Return ``values``, completed with the defaults of ``part`` and checked against its types.

    Args:
        part: a class or function; its keyword-only parameters are the schema.
        values: what the user wrote.
        where: path of this section in the file, for messages (``encoder``,
            ``data.crops[1]``).
        hint: added to the message about an unknown key that is like none of the known ones.

    Raises:
        UserError: an unknown key, a value of the wrong type, or a missing required one.
    """
    fields = schema(part)
    _refuse_unknown_keys(part, fields, values, where, hint)
    for key, (_, default) in fields.items():
        if default is dataclasses.MISSING and key not in values:
            raise UserError(f"config: {where}.{key} is missing; give it a value")
    try:
        merged = OmegaConf.merge(_structured(fields), OmegaConf.create(thaw(values)))
        resolved = OmegaConf.to_container(merged, resolve=True, throw_on_missing=True)
    except (OmegaConfBaseException, TypeError, ValueError) as error:
        key = getattr(error, "full_key", "") or ""
        path = f"{where}.{key}" if key else where
        raise UserError(f"config: {path}: {_first_line(error)}") from error
    complete = typing.cast("dict[str, Any]", resolved)
    return {key: complete[key] for key in fields}


def _refuse_unknown_keys(
    part: Callable[..., Any],
    fields: Mapping[str, Any],
    values: Mapping[str, Any],
    where: str,
    hint: str,
) -> None:
    """Raise UserError for a key that ``part`` does not have, or no longer has."""
    renamed: Mapping[str, str] = getattr(part, "RENAMED", {})
    for key in values:
        if key in renamed:
            raise UserError(
                f"config: {where}.{key} is called {where}.{renamed[key]} now; rename it"
            )
        if key not in fields:
            near = nearest(key, list(fields))
            known = ", ".join(fields) or "none"
            raise UserError(
                f"config: unknown key {where}.{key}{near}; known: {known}{'' if near else hint}"
            )


def _structured(fields: Mapping[str, tuple[Any, Any]]) -> Any:
    """Return the structured OmegaConf configuration that checks the types of ``fields``."""
    required: list[tuple[Any, ...]] = []  # dataclasses want the fields without defaults first
    optional: list[tuple[Any, ...]] = []
    for key, (kind, default) in fields.items():
        if default is dataclasses.MISSING:
            required.append((key, kind))
        elif isinstance(default, list | dict):
            optional.append((key, kind, dataclasses.field(default_factory=default.copy)))
        else:
            optional.append((key, kind, dataclasses.field(default=default)))
    return OmegaConf.structured(dataclasses.make_dataclass("Settings", [*required, *optional]))


def check_above_zero(where: str, value: float | None) -> None:
    """Raise UserError unless ``value``, the setting called ``where``, is above 0 or not set."""
    if value is not None and not value > 0:
        raise UserError(f"config: {where} must be above 0, not {value}")


def check_fraction(where: str, value: float) -> None:
    """Raise UserError unless ``value``, the setting called ``where``, is within 0 and 1."""
    if not 0 <= value <= 1:
        raise UserError(f"config: {where} must be between 0 and 1, not {value}")


def with_new_names(part: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``values`` of a saved configuration with the names that its settings have today.

    A part lists its old names in ``RENAMED`` (old name -> new name). An old name that a
    user writes is refused by ``check`` instead.
    """
    renamed: Mapping[str, str] = getattr(part, "RENAMED", {})
    return {renamed.get(key, key): value for key, value in values.items()}


def read(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read a YAML file and apply ``key.sub=value`` overrides; nothing is checked yet.

    Numbers such as ``1e-3`` are numbers. A later override wins. ``section=name``, where
    the file has a pluggable part, puts that part there with its own defaults
    (``encoder=resnet``, ``method=byol``).

    Args:
        path: YAML file, or an empty string to start from an empty configuration.
        overrides: what replaces the file's values.

    Returns:
        Plain dicts, lists and scalars.

    Raises:
        UserError: the file is missing or is not a YAML mapping, or an override is not
            ``key=value``.
    """
    base = _load(path) if str(path) else OmegaConf.create({})
    for override in overrides:
        _apply(base, override)
    try:
        return typing.cast("dict[str, Any]", OmegaConf.to_container(base, resolve=True))
    except OmegaConfBaseException as error:
        raise UserError(f"config: {path}: {_first_line(error)}") from error


Overrides = Sequence[str] | Mapping[str, Any]
"""``["key.sub=value", ...]`` as on a command line, or ``{"key.sub": value}`` as from Python."""


def as_words(overrides: Overrides) -> list[str]:
    """Return overrides as ``key.sub=value``, the value written as YAML."""
    if not isinstance(overrides, Mapping):
        return list(overrides)
    return [f"{key}={_as_yaml(value)}" for key, value in overrides.items()]


def _as_yaml(value: Any) -> str:
    """Return a value on one line of YAML; a string that YAML would take for another kind is quoted."""
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, str) and OmegaConf.from_dotlist([f"v={value}"]) == {"v": value}:
        return value
    return json.dumps(thaw(value), default=str)


def _load(path: str | Path) -> Any:
    """Return the mapping in a YAML file."""
    refuse_special_file(path)
    try:
        loaded = OmegaConf.load(path)
    except FileNotFoundError as error:
        raise UserError(
            f"config: {path} does not exist; give a YAML file such as"
            " egs/quickstart/conf/quickstart.yaml"
        ) from error
    except (OSError, UnicodeDecodeError, OmegaConfBaseException) as error:
        raise UserError(f"config: cannot read {path}: {_first_line(error)}") from error
    except Exception as error:  # PyYAML's own errors carry the line in their text
        raise UserError(f"config: {path} is not YAML: {' '.join(str(error).split())}") from error
    if not OmegaConf.is_dict(loaded):
        raise UserError(
            f"config: {path} must be a mapping of sections (key: value), not a list or a scalar"
        )
    return loaded


def _apply(base: Any, override: str) -> None:
    """Change ``base`` as ``key=value`` says."""
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise UserError(
            f"config: override {override!r} is not key=value, such as train.batch_size=64"
        )
    try:
        _replace(base, key, value)
    except Exception as error:  # no YAML, a path through a scalar, an index beyond a list
        raise UserError(f"config: override {override!r}: {_first_line(error)}") from error


def _replace(base: Any, key: str, value: str) -> None:
    """Put a value, written as YAML, at ``key`` of ``base``; a bare name selects a part."""
    _expand_names(base, key)
    section = OmegaConf.select(base, key)
    names_part = OmegaConf.is_dict(section) and "name" in section and not value.startswith("{")
    if names_part and value == section.name:
        return
    if names_part:
        value = f"{{name: '{value}'}}"
    parsed = OmegaConf.from_dotlist([f"v={value}"]).v if value else None
    OmegaConf.update(base, key, parsed, merge=False, force_add=True)


def _expand_names(base: Any, key: str) -> None:
    """Write ``predictor: mlp`` as ``predictor: {name: mlp}`` if ``key`` is a setting inside it.

    ``method.predictor.hidden=7`` then finds a mapping to change.
    """
    parts = key.split(".")
    for end in range(2, len(parts)):
        parent = ".".join(parts[:end])
        name = OmegaConf.select(base, parent)
        if isinstance(name, str):
            OmegaConf.update(base, parent, {"name": name}, merge=False)


def write(config: Any, path: str | Path) -> None:
    """Write a configuration (mappings or dataclasses of settings) as YAML."""
    OmegaConf.save(OmegaConf.create(thaw(config)), path)


def freeze(value: Any) -> Any:
    """Return a read-only copy, all the way down: what is saved is then what was used."""
    if isinstance(value, Mapping):
        return MappingProxyType({key: freeze(item) for key, item in value.items()})
    if isinstance(value, list | tuple):
        return tuple(freeze(item) for item in value)
    return value


def thaw(value: Any) -> Any:
    """Return a plain copy (dicts and lists) of frozen mappings or of dataclasses of settings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: thaw(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {key: thaw(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [thaw(item) for item in value]
    return value


def known_section(key: str, known: Sequence[str]) -> None:
    """Raise UserError for an unknown top-level section; the message has the nearest spelling."""
    if key not in known:
        raise UserError(
            f"config: unknown section {key!r}{nearest(key, known)}; known: {', '.join(known)}"
        )


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0]
