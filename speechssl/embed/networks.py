"""Which network of a run embeds: the one that users get (`model/`), or a student or teacher of
`last.pt`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from speechssl import config
from speechssl.embed.mfcc import NAME, mfcc_model
from speechssl.errors import UserError
from speechssl.model import CONFIG, LAST, Model, load_state

_ENCODER = ".encoder."


def load_model(source: str | Path, network: str | None = None) -> Model:
    """The model in `source` (a model or run folder, or ``mfcc``), or a `network` of a run's last
    state.

    Args:
        source: folder, or the name of the MFCC statistics.
        network: `student` or `teacher`; for methods made of others also their own names
            (`dino.student`). None: the one that the run saved, which is the teacher where there is
            one.

    Raises:
        UserError: no model there, or no such network; the message names those that there are.
    """
    if network is None:
        known = str(source) == NAME and not Path(source).exists()
        return mfcc_model() if known else Model.load(source)
    run = Path(source)
    if not (run / LAST).is_file():
        raise UserError(f"embed: --network needs a run folder with {LAST}, which {run} is not")
    state = load_state(run / LAST)
    weights = _weights(state["method"], network)
    written = config.read(run / CONFIG)
    about = {"method": written["method"]["name"], "step": state["step"], "network": network}
    model = Model.from_config(written, about)
    model.encoder.load_state_dict(weights)
    return model.eval()


def _weights(method: Mapping[str, Tensor], network: str) -> dict[str, Tensor]:
    """The encoder's weights of one network out of a method's state."""
    there = sorted({key.partition(_ENCODER)[0] for key in method if _ENCODER in key})
    wanted = (network, "net") if network == "student" else (network,)
    chosen = [name for name in there if name in wanted or name.rpartition(".")[2] in wanted]
    if len(chosen) != 1:
        which = "several" if chosen else "no"
        raise UserError(
            f"embed: {which} networks {network!r} in this run; it has {', '.join(there)}"
        )
    prefix = chosen[0] + _ENCODER
    return {
        key.removeprefix(prefix): value for key, value in method.items() if key.startswith(prefix)
    }
