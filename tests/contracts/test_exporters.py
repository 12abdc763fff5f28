"""What every exporter promises, over every name in the folder (`interfaces.Exporter`)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import speechssl
from speechssl import parts
from speechssl.errors import UserError
from speechssl.exporters.export import export
from speechssl.model import Model

NAMES = parts.names("exporters")
ENCODER = {
    "name": "ecapa",
    "width": 16,
    "embedding_dim": 12,
    "scale": 2,
    "se_channels": 8,
    "attention_channels": 8,
    "kernel_sizes": [5, 3, 1],
    "dilations": [1, 2, 1],
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model whose batch norms are not as they begin."""
    torch.manual_seed(0)
    made = Model({}, ENCODER)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    folder = tmp_path_factory.mktemp("exporters") / "model"
    made.eval().save(folder)
    return folder


@pytest.fixture(scope="module")
def exported(model: Path):
    """name -> the folder that was written, the model given and what the exporter returned; made
    when first asked for.
    """
    found = {}

    def get(name: str):
        if name not in found:
            out = model.parent / name
            out.mkdir(exist_ok=True)
            given = Model.load(model)
            try:
                run = parts.find("exporters", name)(given, out)
            except UserError as error:
                if "pip install" not in str(error):
                    raise
                pytest.skip(str(error))
            found[name] = out, given, run
        return found[name]

    return get


def waves(seconds: float, batch: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return 0.1 * torch.randn(batch, round(seconds * 16000), generator=generator)


@pytest.mark.parametrize("name", NAMES)
def test_what_was_written_embeds_as_the_model(name: str, model: Path, exported) -> None:
    """At lengths and batch sizes that the exporter has not seen."""
    _, _, run = exported(name)
    if run is None:
        pytest.skip("its runtime is not installed")
    embedder = speechssl.load(model)
    for seconds, batch in ((0.8, 1), (1.37, 4), (6.0, 2)):
        x = waves(seconds, batch)
        expected = np.stack([embedder.embed(wave.numpy(), embedder.rate) for wave in x])
        with torch.no_grad():
            got = run(x)
        assert got.shape == (batch, embedder.dim) and got.dtype == torch.float32
        limit = 1e-4 * max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(got.numpy(), expected, atol=limit)


@pytest.mark.parametrize("name", NAMES)
def test_it_writes_whole_files_into_its_folder_only(name: str, model: Path, exported) -> None:
    out, _, _ = exported(name)
    written = [path.name for path in out.iterdir()]
    assert written
    assert not [path for path in written if path.startswith(".")]  # no temporary file is left
    names = {path.name for path in model.iterdir()}
    Model.load(model).save(model.parent / "saved-again")
    assert names == {path.name for path in (model.parent / "saved-again").iterdir()}


@pytest.mark.parametrize("name", NAMES)
def test_the_model_is_left_as_it_is(name: str, model: Path, exported) -> None:
    _, given, _ = exported(name)
    before = Model.load(model).state_dict()
    assert not given.training
    assert set(given.state_dict()) == set(before)
    for key, value in given.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_that_cannot_be_written_is_one_line(name: str, model: Path) -> None:
    with pytest.raises(UserError, match="choose another --out|pip install") as error:
        export(model, name, "/proc/nowhere")
    assert "\n" not in str(error.value)
