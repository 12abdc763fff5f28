"""Addresses without a host."""

from __future__ import annotations

import pytest

from speechssl.audio.remotes import Remotes
from speechssl.errors import UserError


@pytest.mark.parametrize(
    ("prefix", "address", "allowed"),
    [
        ("s3://", "s3://bucket/a.tar", True),
        ("s3://", "s3:///bucket/a.tar", False),
        ("https://", "https:///host/a.wav", False),
        ("https://", "https://:443/a.wav", False),
        ("https://", "https://host:443/a.wav", True),
        ("https://", "https://?/host/a.wav", False),
        ("hdfs://", "hdfs:///folder/a.wav", True),
        ("hdfs:///folder/", "hdfs:///folder/a.wav", True),
        ("hdfs:///folder/", "hdfs:///other/a.wav", False),
        ("hdfs:///folder/", "hdfs://host/folder/a.wav", False),
    ],
)
def test_only_hdfs_has_addresses_without_a_host(prefix: str, address: str, allowed: bool) -> None:
    assert Remotes([prefix]).allow(address) == allowed


@pytest.mark.parametrize("prefix", ["s3:///", "s3:///bucket/", "https://:80/", "https://@/"])
def test_a_prefix_without_a_host_is_refused(prefix: str) -> None:
    with pytest.raises(UserError, match="names no host or bucket after"):
        Remotes([prefix])
