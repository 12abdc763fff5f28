"""What Flower's server, clients and simulation have in common: the package, and the way between machines.

Flower carries tasks and answers (`flower_server.py`, `flower_client.py`, `flower_simulation.py`);
what they mean is `server.py` and `client.py`. Its interfaces `Strategy` and `Client` are used with
`start_server` and `start_client`, not its newer SuperLink and SuperNodes, which send code to
clients: here a server cannot decide what a client runs. Telemetry is switched off before Flower is
imported.
"""

from __future__ import annotations

import ipaddress
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechssl.errors import UserError
from speechssl.federated.client import Client
from speechssl.federated.server import Server
from speechssl.federated.settings import FederatedSettings

TENSORS = "safetensors"
"""What Flower's messages hold, for its field `tensor_type`."""

MESSAGE_SLACK = 1 << 20
"""Bytes of a message beside weights and centroids."""


@dataclass(frozen=True)
class Network:
    """Where a server is, and how the way to it is kept private.

    Attributes:
        address: HOST:PORT.
        ca: certificate of the authority that both sides trust (PEM); None: no TLS.
        certificate, key: of the server (PEM).
        insecure: allow other machines without TLS.
    """

    address: str
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    insecure: bool = False

    def check(self) -> None:
        """Raise UserError for another machine without TLS, unless allowed, and for half of TLS."""
        host, colon, port = self.address.rpartition(":")
        if not colon or not host or not port.isdigit():
            raise UserError(f"federate: {self.address!r} is no HOST:PORT, such as 127.0.0.1:8080")
        if self.ca is None and (self.certificate or self.key):
            raise UserError("federate: TLS needs --tls-ca, too: what clients trust")
        if self.ca is None and not self.insecure and not _is_this_machine(host):
            raise UserError(
                f"federate: {self.address} without TLS: anybody on the way could read and change the"
                " weights; give --tls-ca (the server: --tls-cert and --tls-key, too), or --insecure"
            )

    def server_certificates(self) -> tuple[bytes, bytes, bytes] | None:
        """Return authority, certificate and key, or None without TLS."""
        if self.ca is None:
            return None
        if self.certificate is None or self.key is None:
            raise UserError("federate: --serve with TLS needs --tls-cert and --tls-key, too")
        return read_pem(self.ca), read_pem(self.certificate), read_pem(self.key)


def _is_this_machine(host: str) -> bool:
    """True for localhost and for loopback addresses; a name such as 127.example.org is none."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def read_pem(path: Path) -> bytes:
    """Return the bytes of a certificate or key; raise UserError if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def import_flower() -> Any:
    """Import Flower with its telemetry off and its own log quiet.

    Raises:
        UserError: it is not installed.
    """
    os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
    os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import flwr
        import flwr.client
        import flwr.common
        import flwr.server
    except ImportError as error:
        raise UserError(
            f"federate: this needs Flower ({error}), which has an environment of its own: bash"
            " recipes/federated/setup.sh makes it (pip install 'speechssl[federated]' in an empty one)"
        ) from None
    logging.getLogger("flwr").setLevel(logging.ERROR)  # also hides that these calls are deprecated
    return flwr


def longest_message(server_or_client: Server | Client, settings: FederatedSettings) -> int:
    """Return the bytes of the largest message: weights, and centroids of at most 4096 numbers."""
    weights = sum(v.numel() * v.element_size() for v in server_or_client.expected.values())
    names = 1024 * len(server_or_client.expected)
    return weights + names + 4 * 4096 * settings.clusters + MESSAGE_SLACK
