"""Where a server may be reached without TLS, and half of what TLS needs."""

from pathlib import Path

import pytest

from speechssl.errors import UserError
from speechssl.federated.flower import Network

PEM = Path("file.pem")


@pytest.mark.parametrize("address", ["localhost:80", "127.0.0.1:80", "127.1.2.3:80", "[::1]:80"])
def test_this_machine_needs_no_tls(address: str) -> None:
    Network(address).check()


@pytest.mark.parametrize(
    "address", ["127.example.org:80", "10.0.0.1:80", "server:80", "0.0.0.0:80", "[::]:80"]
)
def test_another_machine_needs_tls_or_leave(address: str) -> None:
    with pytest.raises(UserError, match="without TLS"):
        Network(address).check()
    Network(address, ca=PEM).check()
    Network(address, insecure=True).check()


@pytest.mark.parametrize("insecure", [False, True])
def test_a_certificate_without_authority_would_serve_in_the_clear(insecure: bool) -> None:
    for address in ("127.0.0.1:80", "server:80"):
        with pytest.raises(UserError, match="TLS needs --tls-ca"):
            Network(address, certificate=PEM, key=PEM, insecure=insecure).check()


@pytest.mark.parametrize("address", ["server", ":80", "server:http"])
def test_an_address_has_host_and_port(address: str) -> None:
    with pytest.raises(UserError, match="is no HOST:PORT"):
        Network(address).check()
