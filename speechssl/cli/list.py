"""List methods, encoders, corpora and other parts, and the configurations and models that are shipped."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
from pathlib import Path
from typing import Any

from speechssl import conf, parts
from speechssl.cli.parsers import plain
from speechssl.errors import UserError
from speechssl.files import SHIPPED_MODELS, shipped_models

FOLDERS = {
    **parts.FOLDERS,
    "conf": "configurations of `speechssl train` and `pseudolabel`",
    "models": "trained models, for every command that takes a MODEL",
}
"""Folders that can be listed, in order, and what they hold."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `speechssl list`."""
    parser.add_argument(
        "folder",
        nargs="?",
        choices=FOLDERS,
        metavar="FOLDER",
        help=f"one of {', '.join(FOLDERS)} (default: all of them)",
    )
    parser.add_argument(
        "name",
        nargs="?",
        metavar="NAME",
        help="a part of that folder, whose settings are printed with their defaults; or a shipped"
        " configuration or the card of a shipped model, which is printed",
    )


def run(args: argparse.Namespace) -> None:
    """Print the name and description of each part, or the settings of one."""
    if args.name and args.folder == "conf":
        print(Path(conf.locate(args.name)).read_text(encoding="utf-8"), end="")
        return
    if args.name and args.folder == "models":
        _print_card(args.name)
        return
    if args.name:
        _print_settings(args.folder, args.name)
        return
    if args.folder:
        _print_entries(args.folder)
        return
    for folder, content in FOLDERS.items():
        print(f"{folder}: {content}")
        _print_entries(folder, indent="  ")


def _print_entries(folder: str, indent: str = "") -> None:
    if folder == "conf":
        descriptions = conf.descriptions()
    elif folder == "models":
        descriptions = shipped_models()
    else:
        descriptions = parts.descriptions(folder)
    width = max(len(name) for name in descriptions)
    for name, description in descriptions.items():
        print(f"{indent}{name:<{width}}  {description}")


def _print_card(name: str) -> None:
    """Print the card of a shipped model.

    Raises:
        UserError: there is no such model.
    """
    if name not in shipped_models():
        raise UserError(
            f"list: no model {name!r} comes with this version; it has {', '.join(shipped_models())}"
        )
    print((SHIPPED_MODELS / name / "README.md").read_text(encoding="utf-8"), end="")


def _print_settings(folder: str, name: str) -> None:
    """Print a line for each setting of a part: name, default, and what it is."""
    from speechssl import config
    from speechssl.cli.signature import argument_helps

    part = parts.find(folder, name)
    print(parts.descriptions(folder).get(name, name))
    # A record (a diagnostic, a foreign format) has fields that are no settings.
    schema = config.schema(part) if callable(part) else {}
    helps = argument_helps(inspect.getdoc(part) or "")
    rows = []
    for key, (_kind, default) in schema.items():
        rows.append((key, _shown(default), plain(helps.get(key, ""))))
    if not rows:
        print("no settings")
        return
    key_width = max(len(key) for key, _, _ in rows)
    default_width = max(len(default) for _, default, _ in rows)
    for key, default, text in rows:
        print(f"  {key:<{key_width}}  {default:<{default_width}}  {text}".rstrip())


def _shown(default: Any) -> str:
    """Return a default as it is written in a YAML file."""
    if default is dataclasses.MISSING:
        return "(needed)"
    if default is None:
        return "null"
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return str(list(default))
    return str(default)
