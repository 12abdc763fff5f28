"""A function's signature as command-line arguments.

Positional parameters become positional arguments, keyword-only ones become flags, so that a new
corpus brings its flags along by having them as parameters. Their types and defaults are the
signature's, their help texts the ``Args:`` section of the docstring.
"""

from __future__ import annotations

import argparse
import inspect
import re
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Union


def add_parameters(parser: argparse.ArgumentParser, function: Callable[..., Any]) -> None:
    """Add an argument to ``parser`` for each parameter of ``function`` (not for those that start
    with ``_``).

    Types: int, float, str, Path, bool (``--flag/--no-flag``), Literal (choices), a list or tuple of
    them (several words), and ``X | None`` (absent: None). A keyword-only parameter without a
    default is a required flag.
    """
    text = inspect.getdoc(function) or ""
    parser.description = text.partition("\nArgs:")[0].strip().replace("`", "")
    helps = argument_helps(text)
    annotations = typing.get_type_hints(function)
    for name, parameter in inspect.signature(function).parameters.items():
        if name.startswith("_"):
            continue
        options = _options(annotations.get(name, str))
        help_text = helps.get(name, "").replace("%", "%%")
        if parameter.kind is parameter.KEYWORD_ONLY:
            required = parameter.default is parameter.empty
            if not required and parameter.default is not None:
                shown = (
                    " ".join(map(str, parameter.default))
                    if _several(parameter.default)
                    else parameter.default
                )
                help_text += f" (default: {shown})".replace("%", "%%")
            default = None if required else parameter.default
            flag = "--" + name.replace("_", "-")
            parser.add_argument(
                flag, dest=name, required=required, default=default, help=help_text, **options
            )
        elif parameter.default is parameter.empty:
            parser.add_argument(name, metavar=name.upper(), help=help_text, **options)
        else:
            options["nargs"] = "?"
            parser.add_argument(
                name, metavar=name.upper(), default=parameter.default, help=help_text, **options
            )


def call(function: Callable[..., Any], arguments: argparse.Namespace) -> Any:
    """Call ``function`` with the parsed arguments that :func:`add_parameters` added for it."""
    positional, keywords = [], {}
    for name, parameter in inspect.signature(function).parameters.items():
        if name.startswith("_"):
            continue
        if parameter.kind is parameter.KEYWORD_ONLY:
            keywords[name] = getattr(arguments, name)
        else:
            positional.append(getattr(arguments, name))
    return function(*positional, **keywords)


def argument_helps(docstring: str) -> dict[str, str]:
    """The ``Args:`` section of a docstring (Google style, dedented) as name -> text on one line."""
    helps: dict[str, str] = {}
    name = ""
    section = docstring.partition("Args:\n")[2]
    for line in section.splitlines():
        if line and not line.startswith(" "):
            break
        start = re.match(r" {4}\*{0,2}(\w+)(?: \([^)]*\))?: (.*)", line)
        if start:
            name = start.group(1)
            helps[name] = start.group(2).strip()
        elif name:
            helps[name] = f"{helps[name]} {line.strip()}".strip()
    return helps


def _options(annotation: Any) -> dict[str, Any]:
    """argparse's keywords for a type."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (Union, types.UnionType):
        kinds = [kind for kind in inner if kind is not type(None)]
        return _options(Path if set(kinds) == {str, Path} else kinds[0])
    if origin is Literal:
        return {"choices": inner, "type": type(inner[0])}
    if annotation is bool:
        return {"action": argparse.BooleanOptionalAction}
    if _is_list(origin or annotation):
        return {"nargs": "+", **_options(inner[0] if inner else str)}
    return {"type": annotation if annotation in (int, float, Path) else str}


def _is_list(kind: Any) -> bool:
    return inspect.isclass(kind) and (issubclass(kind, list | tuple) or "Sequence" in kind.__name__)


def _several(value: Any) -> bool:
    return isinstance(value, list | tuple)
