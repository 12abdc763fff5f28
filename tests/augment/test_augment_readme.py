"""The effect that the README adds as its example does what it says."""

from textwrap import dedent

import numpy as np
import torch
from builders import readme_code

from speechssl.augment import effects
from speechssl.augment.augment import LEVELS
from speechssl.augment.draws import UniformDraws


def test_clipping_as_in_the_readme():
    drawing, effect = readme_code("augment")
    namespace = {**vars(effects), "UniformDraws": UniformDraws}
    exec("from __future__ import annotations\n" + dedent(drawing) + dedent(effect), namespace)

    class Settings:
        clip_prob = 0.8
        clip = (0.3, 0.6)

    plan = np.zeros(50, dtype=[("clip", np.float32)])
    draws = UniformDraws(np.random.default_rng(0), 50, {"clipping": 1, "clip_level": 1})
    namespace["_draw_clipping"](Settings(), plan, draws, LEVELS["mild"])
    assert 0.2 < (plan["clip"] > 0).mean() < 0.6  # half of 0.8
    waves = torch.randn(50, 400, generator=torch.Generator().manual_seed(0))
    waves[:3] = 0.0
    clipped = namespace["clip"](waves.clone(), plan)
    off = torch.from_numpy(plan["clip"] == 0)
    assert torch.equal(clipped[off], waves[off])
    share = clipped.abs().amax(1)[3:] / waves.abs().amax(1)[3:]
    want = np.where(plan["clip"] > 0, plan["clip"], 1.0)[3:]
    np.testing.assert_allclose(share.numpy(), want, rtol=1e-5)
    assert (clipped[:3] == 0).all()
