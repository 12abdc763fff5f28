"""Two utterances with one id are refused where something is looked up by it."""

from __future__ import annotations

import pytest

from speechssl.data.manifest import Utterance
from speechssl.errors import UserError
from speechssl.train.data import refuse_shared_ids

ALIKE = [Utterance("a", "one.wav"), Utterance("b", "two.wav"), Utterance("a", "three.wav")]


def test_ids_of_their_own_are_accepted() -> None:
    refuse_shared_ids(ALIKE[:2])


def test_the_setting_the_id_and_what_is_looked_up_are_told() -> None:
    with pytest.raises(UserError, match=r"^data\.train: .*'a'.*classes are looked up by id"):
        refuse_shared_ids(ALIKE)
    with pytest.raises(UserError, match=r"^federated\.clients: .*'a'.*clients are looked up by id"):
        refuse_shared_ids(ALIKE, "federated.clients", "clients")
