"""A function's signature as command-line arguments.

Positional parameters become positional arguments, keyword-only ones become flags. Types and
defaults are those of the signature, the help texts stand in the ``Args:`` section of the docstring.
A new corpus (`speechssl prepare`) brings its flags along by having them as parameters.
"""

from __future__ import annotations

import argparse
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, Union

from speechssl.cli.parsers import plain


def add_parameters(parser: argparse.ArgumentParser, function: Callable[..., Any]) -> None:
    """Add an argument for each parameter of a function, and its docstring as the description.

    Types: int, float, str, Path, bool (``--flag/--no-flag``), Literal (choices), a list, tuple or
    sequence of them (several words), and ``X | None`` (None if the flag is absent). A keyword-only
    parameter without a default becomes a required flag. Parameters that begin with ``_`` are left
    out.
    """
    docstring = inspect.getdoc(function) or ""
    parser.description = plain(docstring.partition("\nArgs:")[0].strip())
    helps = argument_helps(docstring)
    annotations = typing.get_type_hints(function)
    for parameter in _public_parameters(function):
        options = _options(annotations.get(parameter.name, str))
        options["help"] = _help_text(parameter, helps.get(parameter.name, ""))
        if parameter.kind is parameter.KEYWORD_ONLY:
            _add_flag(parser, parameter, options)
        else:
            _add_positional(parser, parameter, options)


def call(function: Callable[..., Any], arguments: argparse.Namespace) -> Any:
    """Call a function with the arguments that `add_parameters` has added for it."""
    positional = []
    keywords = {}
    for parameter in _public_parameters(function):
        value = getattr(arguments, parameter.name)
        if parameter.kind is parameter.KEYWORD_ONLY:
            keywords[parameter.name] = value
        else:
            positional.append(value)
    return function(*positional, **keywords)


def argument_helps(docstring: str) -> dict[str, str]:
    """Return name -> text, on one line, of the ``Args:`` section of a docstring.

    Names that stand together (``epochs, steps: ...``) have the same text.

    Args:
        docstring: in Google's style, without indentation (`inspect.getdoc`).
    """
    helps: dict[str, str] = {}
    names: list[str] = []
    section = docstring.partition("Args:\n")[2]
    for line in section.splitlines():
        if line and not line.startswith(" "):
            break  # the next section
        start = re.match(r" {4}(\*{0,2}\w+(?:, \w+)*)(?: \([^)]*\))?: (.*)", line)
        if start:
            names = start.group(1).lstrip("*").split(", ")
            helps.update(dict.fromkeys(names, start.group(2).strip()))
            continue
        for name in names:
            helps[name] = f"{helps[name]} {line.strip()}".strip()
    return helps


def _public_parameters(function: Callable[..., Any]) -> Iterator[inspect.Parameter]:
    for name, parameter in inspect.signature(function).parameters.items():
        if not name.startswith("_"):
            yield parameter


def _add_flag(
    parser: argparse.ArgumentParser, parameter: inspect.Parameter, options: dict[str, Any]
) -> None:
    flag = "--" + parameter.name.replace("_", "-")
    if parameter.default is parameter.empty:
        options["required"] = True
    else:
        options["default"] = parameter.default
    parser.add_argument(flag, dest=parameter.name, **options)


def _add_positional(
    parser: argparse.ArgumentParser, parameter: inspect.Parameter, options: dict[str, Any]
) -> None:
    options["metavar"] = parameter.name.upper()
    if parameter.default is not parameter.empty:
        options["nargs"] = "?"
        options["default"] = parameter.default
    parser.add_argument(parameter.name, **options)


def _help_text(parameter: inspect.Parameter, text: str) -> str:
    """Return the help of a parameter, with its default if there is one, for argparse."""
    text = plain(text).removesuffix(".")
    default = parameter.default
    if default is not parameter.empty and default is not None:
        text += f" (default: {_shown(parameter.name, default)})"
    return text.strip().replace("%", "%%")


def _shown(name: str, default: Any) -> str:
    """Return a default as a user would write it."""
    if isinstance(default, bool):
        flag = name.replace("_", "-")
        return f"--{flag}" if default else f"--no-{flag}"
    if isinstance(default, float):
        return f"{default:g}"
    if isinstance(default, list | tuple):
        return " ".join(str(value) for value in default)
    return str(default)


def _options(annotation: Any) -> dict[str, Any]:
    """Return what `argparse.ArgumentParser.add_argument` takes for a type."""
    origin = typing.get_origin(annotation)
    inner = typing.get_args(annotation)
    if origin in (Union, types.UnionType):
        kinds = [kind for kind in inner if kind is not type(None)]
        return _options(Path if set(kinds) == {str, Path} else kinds[0])
    if origin is Literal:
        return {"choices": inner, "type": type(inner[0])}
    if annotation is bool:
        return {"action": argparse.BooleanOptionalAction}
    if _is_sequence(origin or annotation):
        return {"nargs": "+", **_options(inner[0] if inner else str)}
    return {"type": annotation if annotation in (int, float, Path) else str}


def _is_sequence(kind: Any) -> bool:
    return inspect.isclass(kind) and (issubclass(kind, list | tuple) or "Sequence" in kind.__name__)
