"""Settings: plain YAML plus ``key=value`` overrides, checked against the code that reads them.

The keyword-only parameters of a class's constructor are its settings: their annotations are the
types, their defaults the defaults. Nothing else lists them, so a key in a YAML file that no
constructor reads cannot exist: it is refused with its full path and the nearest spelling. Parts
(encoder, method, clusterer, ...) are found and built by ``speechssl.parts``.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from speechssl.errors import UserError


def schema(part: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    """The settings of a class or function: keyword-only parameter name -> (type, default).

    A parameter without a default has ``dataclasses.MISSING``; keyword-only parameters whose name
    starts with an underscore are not settings.
    """
    target = part.__init__ if inspect.isclass(part) else part  # type: ignore[misc]
    types = typing.get_type_hints(target)
    out = {}
    for parameter in inspect.signature(target).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not parameter.name.startswith("_"):
            default = (
                dataclasses.MISSING if parameter.default is parameter.empty else parameter.default
            )
            out[parameter.name] = (types.get(parameter.name, Any), default)
    return out


def check(part: Callable[..., Any], values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """``values`` completed with the defaults of ``part`` and checked against its types.

    Args:
        part: a class or function; its keyword-only parameters are the schema.
        values: what the user wrote.
        where: path of this section in the file, for messages (``encoder``, ``data.crops[1]``).

    Raises:
        UserError: an unknown key, a value of the wrong type, or a missing required one.
    """
    fields = schema(part)
    renamed: Mapping[str, str] = getattr(part, "RENAMED", {})
    for key in values:
        if key in renamed:
            raise UserError(
                f"config: {where}.{key} is called {where}.{renamed[key]} now; rename it"
            )
        if key not in fields:
            near = nearest(key, list(fields))
            raise UserError(
                f"config: unknown key {where}.{key}{near}; known: {', '.join(fields) or 'none'}"
            )
    required = [key for key, (_, default) in fields.items() if default is dataclasses.MISSING]
    for key in required:
        if key not in values:
            raise UserError(f"config: {where}.{key} is missing; give it a value")
    columns: list[tuple[Any, ...]] = []
    for key, (kind, default) in fields.items():
        if default is dataclasses.MISSING:
            columns.append((key, kind))
        elif isinstance(default, list | dict):
            columns.append((key, kind, dataclasses.field(default_factory=default.copy)))
        else:
            columns.append((key, kind, dataclasses.field(default=default)))
    columns.sort(key=len)  # dataclasses want the fields without defaults first
    structured = OmegaConf.structured(dataclasses.make_dataclass("Settings", columns))
    try:
        merged = OmegaConf.merge(structured, OmegaConf.create(thaw(values)))
        resolved = OmegaConf.to_container(merged, resolve=True, throw_on_missing=True)
    except (OmegaConfBaseException, TypeError, ValueError) as error:
        key = getattr(error, "full_key", "") or ""
        reason = str(error).splitlines()[0]
        raise UserError(f"config: {where}{'.' if key else ''}{key}: {reason}") from error
    return {key: resolved[key] for key in fields}  # type: ignore[index, call-overload]


def with_new_names(part: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``values`` of a saved configuration with the names that its settings have today.

    A part lists the old ones in ``RENAMED`` (old name -> new name). What a user writes is refused
    instead, by ``check``.
    """
    renamed: Mapping[str, str] = getattr(part, "RENAMED", {})
    return {renamed.get(key, key): value for key, value in values.items()}


def read(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """A YAML file (or nothing, for an empty path) with ``key.sub=value`` overrides, as plain data,
    unchecked.

    Numbers such as ``1e-3`` are numbers. A later override wins. ``section=name``, where the file
    has a pluggable part, puts that part there with its own defaults (``encoder=resnet``,
    ``method=byol``).

    Raises:
        UserError: the file is missing or is not a YAML mapping, or an override is not
            ``key=value``.
    """
    try:
        base = OmegaConf.load(path) if str(path) else OmegaConf.create({})
    except FileNotFoundError as error:
        raise UserError(
            f"config: {path} does not exist; give a YAML file such as"
            " egs/quickstart/conf/quickstart.yaml"
        ) from error
    except (OSError, UnicodeDecodeError, OmegaConfBaseException) as error:
        raise UserError(f"config: cannot read {path}: {str(error).splitlines()[0]}") from error
    except Exception as error:  # PyYAML's own errors carry the line in their text
        raise UserError(f"config: {path} is not YAML: {' '.join(str(error).split())}") from error
    if not OmegaConf.is_dict(base):
        raise UserError(
            f"config: {path} must be a mapping of sections (key: value), not a list or a scalar"
        )
    for item in overrides:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise UserError(
                f"config: override {item!r} is not key=value, such as train.batch_size=64"
            )
        _names_to_sections(base, key)
        section = OmegaConf.select(base, key)
        if OmegaConf.is_dict(section) and "name" in section and not value.startswith("{"):
            if value == section.name:
                continue
            value = f"{{name: '{value}'}}"
        try:
            parsed = OmegaConf.from_dotlist([f"v={value}"]).v if value else None
            OmegaConf.update(base, key, parsed, merge=False, force_add=True)
        except Exception as error:  # a value that is not YAML, or a path through a scalar
            raise UserError(f"config: override {item!r}: {str(error).splitlines()[0]}") from error
    try:
        return typing.cast("dict[str, Any]", OmegaConf.to_container(base, resolve=True))
    except OmegaConfBaseException as error:
        raise UserError(f"config: {path}: {str(error).splitlines()[0]}") from error


def _names_to_sections(base: Any, key: str) -> None:
    """Turn ``predictor: mlp`` on the way to ``method.predictor.hidden`` into ``predictor: {name:
    mlp}``.
    """
    parts = key.split(".")
    for end in range(2, len(parts)):
        parent = ".".join(parts[:end])
        name = OmegaConf.select(base, parent)
        if isinstance(name, str):
            OmegaConf.update(base, parent, {"name": name}, merge=False)


def write(config: Mapping[str, Any], path: str | Path) -> None:
    """Write a resolved configuration as YAML."""
    OmegaConf.save(OmegaConf.create(thaw(config)), path)


def freeze(value: Any) -> Any:
    """A read-only view, all the way down: the configuration that is saved is the one that ran."""
    if isinstance(value, Mapping):
        return MappingProxyType({key: freeze(item) for key, item in value.items()})
    if isinstance(value, list | tuple):
        return tuple(freeze(item) for item in value)
    return value


def thaw(value: Any) -> Any:
    """A plain copy (dicts and lists) of a frozen configuration."""
    if isinstance(value, Mapping):
        return {key: thaw(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [thaw(item) for item in value]
    return value


def known_section(key: str, known: Sequence[str]) -> None:
    """Refuse an unknown top-level section with the nearest spelling."""
    if key not in known:
        raise UserError(
            f"config: unknown section {key!r}{nearest(key, known)}; known: {', '.join(known)}"
        )


def nearest(word: str, known: Sequence[str]) -> str:
    """Return `` (did you mean 'X'?)`` for the most similar known word, or nothing."""
    close = difflib.get_close_matches(str(word), known, n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""
