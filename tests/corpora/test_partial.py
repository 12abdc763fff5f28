"""What becomes of a corpus that is not as published."""

from __future__ import annotations

import pytest

from speechssl.corpora.partial import NOT_COMPARABLE, refuse_unless_partial
from speechssl.errors import UserError


def test_it_is_refused_with_the_remedy_or_said_on_standard_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = {"remedy": "unpack it again, or go on", "consequence": NOT_COMPARABLE}
    with pytest.raises(UserError, match="^2 files, not 3; unpack it again, or go on: --partial$"):
        refuse_unless_partial("2 files, not 3", partial=False, **words)
    assert capsys.readouterr().err == ""
    refuse_unless_partial("2 files, not 3", partial=True, **words)
    said = capsys.readouterr().err
    assert said == "2 files, not 3: not comparable with published figures (--partial)\n"
