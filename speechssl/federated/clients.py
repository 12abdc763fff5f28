"""Who has which utterances: one client a directory, or the groups of a map such as utt2session."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from speechssl.data.kaldi import read_mapping
from speechssl.data.manifest import Utterance
from speechssl.errors import UserError
from speechssl.federated.messages import LONGEST_NAME
from speechssl.federated.settings import FederatedSettings
from speechssl.train.data import read_utterances, refuse_shared_ids
from speechssl.train.settings import TrainingConfig

_LONGEST_FOLDER = 255  # bytes; what disks allow


class Holdings(NamedTuple):
    """What a client has.

    Attributes:
        name: of the client.
        config: training configuration with this client's directories.
        utterances: of this client.
        skipped: (id, reason) of those that are left out.
    """

    name: str
    config: TrainingConfig
    utterances: list[Utterance]
    skipped: list[tuple[str, str]]


def client_names(config: TrainingConfig, settings: FederatedSettings) -> list[str]:
    """Return the names of all clients that a configuration describes, sorted.

    Raises:
        UserError: the map cannot be read, is empty, or has a name that is too long or not UTF-8.
    """
    if settings.clients is None:
        names = sorted(_directories(config.data.train))
    else:
        names = sorted(set(read_mapping(settings.clients).values()))
    if not names:
        raise UserError(f"federated.clients: {settings.clients} is empty; give `utterance client`")
    for name in names:
        _check_name(name)
    return names


def _check_name(name: str) -> None:
    """Raise UserError for a name that a message or a folder cannot have."""
    try:
        length = len(folder_of(Path(), name).name)
    except UnicodeEncodeError:
        length = 0
    if not 0 < length <= _LONGEST_FOLDER or len(name) > LONGEST_NAME:
        raise UserError(
            f"federate: {name[:40]!r} cannot be the name of a client: it is not UTF-8, or longer"
            f" than {LONGEST_NAME} letters; rename it"
        )


def holdings(config: TrainingConfig, settings: FederatedSettings, name: str) -> Holdings:
    """Read what one client has; the directories of other clients are not opened.

    With a map all directories are read, and the utterances of other clients passed over.

    Raises:
        UserError: there is no such client, or it has no usable utterance.
    """
    known = client_names(config, settings)
    if name not in known:
        raise UserError(f"federate: no client {name!r}; there are: {', '.join(known[:20])}")
    if settings.clients is None:
        directory = _directories(config.data.train)[name]
        own = dataclasses.replace(config.data, train=(directory,), source_shares=())
        config = dataclasses.replace(config, data=own)
        utterances, skipped = read_utterances(config.data)
    else:
        client_of = read_mapping(settings.clients)
        utterances, skipped = read_utterances(config.data)
        refuse_shared_ids(utterances, "federated.clients", "clients")
        utterances = [u for u in utterances if client_of.get(u.id) == name]
        skipped = [entry for entry in skipped if client_of.get(entry[0]) == name]
    if not utterances:
        raise UserError(f"federate: client {name} has no usable utterance; leave it out")
    return Holdings(name, config, utterances, skipped)


def _directories(directories: Sequence[str]) -> dict[str, str]:
    """Return client -> directory; the client is called by the folder, or the path if two are alike."""
    last = [Path(directory).name for directory in directories]
    named = {}
    for directory, name in zip(directories, last, strict=True):
        named[name if name and last.count(name) == 1 else directory] = directory
    return named


def folder_of(out: Path, name: str) -> Path:
    """Return the folder of a client, whatever it is called.

    Raises:
        UserError: it is a link, which might lead anywhere.
    """
    quoted = quote(name, safe=" ")
    if not quoted.strip("."):  # "", "." and ".." are no names of folders
        quoted = quoted.replace(".", "%2E") or "%"
    folder = out / "clients" / quoted
    if folder.is_symlink() or folder.parent.is_symlink():
        raise UserError(f"federate: {folder} is a link; put a folder there, or give another --out")
    return folder
