"""YAML that somebody else wrote: data of a bounded size, in which nothing is expanded.

A model folder or a run that was downloaded brings a ``config.yaml``. In it an alias can multiply
what it stands for, a tag can name a Python object, deep nesting can exhaust the stack, and
``${oc.env:TOKEN}`` would be replaced by a secret of this machine. None of it is in a file that this
package wrote, and each is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from speechssl.errors import UserError
from speechssl.regular import is_special

_MOST_BYTES = 1 << 20
_MOST_LEVELS = 30
_MOST_EVENTS = 20_000  # 40,000 numbers took OmegaConf 11 s and 55 MB


def read(path: str | Path, *, keep_tags: bool = False) -> dict[str, Any]:
    """Return the mapping in a YAML file: strings, numbers, lists and mappings with string keys.

    Args:
        path: the file.
        keep_tags: take tags that begin with one `!` (SpeechBrain's `!new:`, `!ref`) as data: a
            tagged string becomes "!tag string", a tagged mapping has its tag under the key "!".
            None of them does anything. Otherwise tags are refused.

    Raises:
        UserError: the file is not there, is not such a mapping, or holds an alias, a tag, a ``${``,
            over 1 MiB, more than 30 levels, or more than about 20,000 keys and values.
    """
    path = Path(path)
    try:
        if path.exists() and (not path.is_file() or is_special(path)):
            raise UserError(f"{path}: is no regular file; not read")
        with open(path, "rb") as file:
            data = file.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise UserError(f"{path}: is longer than {_MOST_BYTES} bytes; not read")
        text = data.decode("utf-8")
        _check_events(path, text, keep_tags)
        found = yaml.load(text, Loader=_TagLoader if keep_tags else yaml.SafeLoader)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 (byte {error.start})") from error
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{path}: is not YAML: {' '.join(str(error).split())[:300]}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: must be a mapping of sections (key: value)")
    _check_values(path, found)
    return found


class _TagLoader(yaml.SafeLoader):
    """Builds what SafeLoader builds, and keeps local tags (`!name`) as strings."""


def _keep_tag(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> Any:
    """Return a tagged node as data; see `read`."""
    if isinstance(node, yaml.MappingNode):
        return {"!": suffix, **loader.construct_mapping(node, deep=True)}
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return f"!{suffix} {node.value}".strip()


_TagLoader.add_multi_constructor("!", _keep_tag)


def _check_events(path: Path, text: str, keep_tags: bool) -> None:
    """Refuse what could multiply, nest or build, before anything is constructed."""
    level = 0
    for count, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
        if count > _MOST_EVENTS:
            raise UserError(f"{path}: line {_line(event)}: over {_MOST_EVENTS} keys and values")
        if isinstance(event, yaml.AliasEvent):
            raise UserError(f"{path}: line {_line(event)}: an alias (*) is not allowed here")
        tag = getattr(event, "tag", None)
        is_local = isinstance(tag, str) and tag.startswith("!") and not tag.startswith("!!")
        if tag and not (keep_tags and is_local):
            raise UserError(f"{path}: line {_line(event)}: a tag (!) is not allowed here")
        if isinstance(event, yaml.CollectionStartEvent):
            level += 1
            if level > _MOST_LEVELS:
                raise UserError(f"{path}: line {_line(event)}: nested over {_MOST_LEVELS} levels")
        if isinstance(event, yaml.CollectionEndEvent):
            level -= 1


def _line(event: yaml.Event) -> int:
    return 0 if event.start_mark is None else event.start_mark.line + 1


def _check_values(path: Path, value: Any) -> None:
    """Refuse keys that are no strings, and interpolations."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise UserError(f"{path}: the key {key!r} is no string")
            _check_values(path, key)
            _check_values(path, inner)
    elif isinstance(value, list):
        for inner in value:
            _check_values(path, inner)
    elif isinstance(value, str) and "${" in value:
        raise UserError(f"{path}: {value[:60]!r}: '${{' is not expanded here; write the value")
