"""What narrow-band recordings share is taken out of theirs, and nothing of the others."""

import pytest
import torch

from speechssl.encoders.ecapa import ECAPA
from speechssl.errors import UserError
from speechssl.nn.band_shift import BandShift
from speechssl.nn.frames import Frames

MELS = 8
WIDE, NARROW = 0.0, -10.0
"""Level of the upper bands of the two kinds."""


def recordings(level: float, count: int = 5) -> torch.Tensor:
    """Features (B, F, M) whose upper half lies at a level."""
    features = torch.randn(count, 30, MELS, generator=torch.Generator().manual_seed(0))
    features[:, :, MELS // 2 :] += level
    return features


def separating(shift: BandShift) -> None:
    """Set it so that the upper bands below -5 are narrow, and what is taken out is 1, 2, 3, ..."""
    shift.weight[MELS // 2 :] = -4.0 / (MELS // 2)
    shift.offset.fill_(-20.0)
    shift.shift.copy_(torch.arange(1.0, len(shift.shift) + 1))


def test_narrow_recordings_are_shifted_and_wide_ones_are_not() -> None:
    shift = BandShift(MELS, 6)
    separating(shift)
    pooled = torch.randn(5, 6)
    for level, wanted in ((WIDE, pooled), (NARROW, pooled - shift.shift)):
        features = recordings(level)
        got = shift(pooled, features, Frames.of(features, None))
        torch.testing.assert_close(got, wanted, atol=1e-3, rtol=0)


def test_a_recording_in_between_is_shifted_by_its_share() -> None:
    shift = BandShift(1, 2)
    shift.weight.fill_(1.0)
    shift.shift.copy_(torch.tensor([2.0, -4.0]))
    features = torch.tensor([0.25, 0.75, 50.0])[None, :, None]  # the last frame is padding
    got = shift(torch.zeros(1, 2), features, Frames.of(features, torch.tensor([2])))
    share = 1 / (1 + 2.718281828**-0.5)
    torch.testing.assert_close(got, -share * shift.shift[None])


@pytest.mark.parametrize("early", [False, True])
def test_an_encoder_is_the_same_before_it_is_found_and_its_means_meet_after(early: bool) -> None:
    torch.manual_seed(0)
    options = {"width": 16, "embedding_dim": 4, "early_statistics": early}
    plain = ECAPA(MELS, **options).eval()
    encoder = ECAPA(MELS, **options, band_shift=True).eval()
    missing = encoder.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert sorted(missing) == ["band_shift.offset", "band_shift.shift", "band_shift.weight"]
    wide, narrow = recordings(WIDE, 20), recordings(NARROW, 20)
    assert torch.equal(encoder(narrow), plain(narrow))

    seen: list[torch.Tensor] = []
    hook = encoder.asp_bn.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    encoder(wide), encoder(narrow)
    hook.remove()
    assert encoder.band_shift is not None
    separating(encoder.band_shift)
    encoder.band_shift.shift.copy_(seen[1].mean(0) - seen[0].mean(0))
    torch.testing.assert_close(encoder(wide), plain(wide), atol=1e-4, rtol=1e-4)
    gap = (encoder(narrow).mean(0) - encoder(wide).mean(0)).norm()
    assert gap < 1e-3 * (plain(narrow).mean(0) - plain(wide).mean(0)).norm() + 1e-4


def test_it_has_no_stages() -> None:
    with pytest.raises(UserError, match="band_shift"):
        ECAPA(MELS, width=16, band_shift=True).stages()
