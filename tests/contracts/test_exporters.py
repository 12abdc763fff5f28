"""What every exporter promises, over every name in the folder (`interfaces.Exporter`)."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import ECAPA, RATE, make_model, noises
from torch import Tensor

import speechssl
from speechssl import parts
from speechssl.errors import UserError
from speechssl.exporters.export import export
from speechssl.model import Model

NAMES = parts.names("exporters")
SHALLOW = {**ECAPA, "kernel_sizes": [5, 3, 1], "dilations": [1, 2, 1]}


SHERPA = {"name": "kaldi", "n_mels": 80, "snip_edges": False, "f_max": 7600.0}
"""The front end that sherpa-onnx computes."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exporters")
    make_model(SHALLOW).save(folder / "any")
    make_model(SHALLOW, **SHERPA).save(folder / "sherpa")
    return folder


Run = Callable[[Tensor], Tensor] | None


def write(name: str, models: Path, out: Path) -> tuple[Path, Model, Run]:
    """Export the first model that the format `name` takes, which may refuse a front end.

    Returns:
        The model's folder, the model that was given to the exporter, and what it returned.
    """
    refused = []
    for folder in sorted(models.iterdir()):
        given = Model.load(folder)
        try:
            return folder, given, parts.find("exporters", name)(given, out)
        except UserError as error:
            if "pip install" in str(error):
                pytest.skip(str(error))
            refused.append(str(error))
    raise AssertionError(f"{name} takes none of the models: {refused}")


@pytest.mark.parametrize("name", NAMES)
def test_it_writes_whole_files_that_embed_as_the_model_and_leaves_the_model(
    name: str, models: Path, tmp_path: Path
) -> None:
    """One test, because an export may take ten seconds."""
    model, given, run = write(name, models, tmp_path)
    written = [path.name for path in tmp_path.iterdir()]
    assert written
    assert not [path for path in written if path.startswith(".")]  # no temporary file is left
    assert {path.name for path in model.iterdir()} == {"config.yaml", "weights.safetensors"}

    before = Model.load(model).state_dict()
    assert not given.training
    assert set(given.state_dict()) == set(before)
    for key, value in given.state_dict().items():
        assert torch.equal(value, before[key]), key

    if run is None:
        pytest.skip("its runtime is not installed")
    embedder = speechssl.load(model)
    for seconds, batch in ((0.8, 1), (1.37, 4), (6.0, 2)):  # none of them was seen by the exporter
        x = noises(batch, round(seconds * RATE))
        expected = np.stack([embedder.embed(wave.numpy(), embedder.rate) for wave in x])
        with torch.no_grad():
            got = run(x)
        assert got.shape == (batch, embedder.dim) and got.dtype == torch.float32
        limit = 1e-4 * max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(got.numpy(), expected, atol=limit)


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_that_cannot_be_written_is_one_line(name: str, models: Path) -> None:
    said = []
    for model in sorted(models.iterdir()):
        with pytest.raises(UserError) as error:
            export(model, name, "/proc/nowhere")
        said.append(str(error.value))
    assert any("choose another --out" in one or "pip install" in one for one in said)
    assert "\n" not in "".join(said)
