"""What every encoder promises, over every name in the folder (`interfaces.Encoder`)."""

import inspect

import pytest
import torch
from builders import DEVICE, ENCODERS, on_device, readme_part

from speechssl import config, parts
from speechssl.errors import UserError
from speechssl.interfaces import Encoder

MELS = 24
NAMES = [*parts.names("encoders"), readme_part("encoders")]
NAMES = [name for name in NAMES if parts.find("encoders", name).INPUT == "features"]
"""Those that take samples keep the contract in tests of their own (tests/encoders/test_transformer.py)."""


def make(name, seed=0):
    torch.manual_seed(seed)
    return on_device(parts.build("encoders", ENCODERS.get(name, name), MELS))


def settled(name):
    """In evaluation, with BatchNorm statistics that are not those of the start."""
    encoder = make(name).train()
    with torch.no_grad():
        for seed in range(3):
            encoder(2 * features(4, 60, seed) + 0.5)
    return encoder.eval()


def features(batch, frames, seed=0):
    rows = torch.randn(batch, frames, MELS, generator=torch.Generator().manual_seed(seed))
    return on_device(rows)


def counts(*frames):
    """Frames of each utterance."""
    return on_device(torch.tensor(frames))


@pytest.mark.parametrize("name", NAMES)
def test_the_first_argument_is_input_dim_and_every_setting_has_a_default(name):
    part = parts.find("encoders", name)
    assert next(iter(inspect.signature(part).parameters)) == "input_dim"
    assert parts.check("encoders", {"name": name}, "encoder")["name"] == name
    assert inspect.getdoc(inspect.getmodule(part))


@pytest.mark.parametrize("name", sorted(set(NAMES) & set(parts.names("encoders"))))
def test_a_size_that_cannot_be_is_one_line(name):
    sizes = ENCODERS.get(name, {"name": name})
    with pytest.raises(UserError, match="embedding_dim 0 must be at least 1"):
        parts.build("encoders", {**sizes, "embedding_dim": 0}, MELS)
    for key, (kind, _) in config.schema(parts.find("encoders", name)).items():
        if kind in (int, int | None) and key != "se_stages":
            with pytest.raises(UserError):
                parts.build("encoders", {**sizes, key: -1}, MELS)


@pytest.mark.parametrize("name", NAMES)
def test_shape_dimension_and_type(name):
    encoder = settled(name)
    for batch, frames in ((3, 50), (1, 17), (2, 200)):
        out = encoder(features(batch, frames))
        assert out.shape == (batch, encoder.embedding_dim) and out.dtype == torch.float32
        assert out.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_a_padded_batch_equals_each_utterance_alone(name):
    encoder, lengths = settled(name), counts(90, 37, 8, 61)
    x = features(4, 90)
    for row, length in enumerate(lengths):
        x[row, length:] = 1e3  # what lies behind the end must not matter
    with torch.no_grad():
        together = encoder(x, lengths)
        for row, length in enumerate(lengths):
            torch.testing.assert_close(
                together[row], encoder(x[row : row + 1, :length])[0], atol=1e-5, rtol=1e-5
            )


@pytest.mark.parametrize("name", NAMES)
def test_full_lengths_are_no_lengths(name):
    x, lengths = features(4, 40), counts(40, 40, 40, 40)
    for mode in (True, False):
        encoder = settled(name).train(mode)
        with torch.no_grad():
            torch.testing.assert_close(encoder(x, lengths), encoder(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_gets_a_gradient_with_and_without_lengths(name):
    for lengths in (None, counts(40, 33, 25, 40)):
        encoder = make(name).train()
        out = encoder(features(4, 40), lengths)
        weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
        (out * on_device(weights)).sum().backward()
        for key, p in encoder.named_parameters():
            assert p.grad is not None and p.grad.isfinite().all(), key
            assert p.grad.abs().sum() > 0 or key.endswith("bias"), (
                key
            )  # a bias before a norm may have none


@pytest.mark.parametrize("name", NAMES)
def test_the_input_is_left_as_it_was(name):
    x = features(4, 40)
    kept = x.clone()
    make(name).train()(x, counts(40, 30, 20, 40))
    assert torch.equal(x, kept)


@pytest.mark.parametrize("name", NAMES)
def test_the_state_survives_a_round_trip(name):
    encoder, again, x = settled(name), make(name, seed=1).eval(), features(2, 40)
    with torch.no_grad():
        assert not torch.allclose(again(x), encoder(x))
        again.load_state_dict(encoder.state_dict())
        assert torch.equal(again(x), encoder(x))


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_decides_the_initial_weights(name):
    one, two, other = (make(name, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_autocast_is_close(name):
    encoder, x = settled(name), features(4, 50)
    with torch.no_grad():
        want = encoder(x)
        with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
            got = encoder(x).float()
    assert torch.nn.functional.cosine_similarity(got, want).min() > 0.98


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_setting_is_refused(name):
    with pytest.raises(UserError, match="unknown key encoder.no_such_setting"):
        parts.check("encoders", {"name": name, "no_such_setting": 1}, "encoder")


def outputs_of(module, encoder, *inputs):
    """What `module` is called with and what it gives in a forward pass of `encoder`."""
    calls = []
    hook = module.register_forward_hook(
        lambda _module, given, output: calls.append((given, output))
    )
    encoder(*inputs)
    hook.remove()
    (call,) = calls
    return call


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_affine_layers_one_after_the_other_are_what_comes_after_pooling(name):
    encoder, x = settled(name), features(3, 40)
    layers = list(encoder.affine_layers().values())
    assert layers and all(list(layer.parameters()) for layer in layers)
    (pooled,), _ = outputs_of(layers[0], encoder, x)
    for layer in layers:
        pooled = layer(pooled)
    torch.testing.assert_close(pooled, encoder(x))


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_frame_layers_take_and_give_frames(name):
    encoder, lengths = settled(name), counts(40, 17)
    layers = encoder.frame_layers()
    assert layers and not set(layers) & set(encoder.affine_layers())
    for layer in layers.values():
        (_, frames), output = outputs_of(layer, encoder, features(2, 40), lengths)
        if isinstance(output, tuple):
            output, frames = output
        assert output.ndim in (3, 4) and output.shape[:2] == frames.mask.shape
        assert (output[1, frames.lengths[1] :]).shape[0] > 0  # the shorter one is padded


@pytest.mark.parametrize("name", NAMES)
def test_it_is_an_encoder_with_documented_settings(name):
    part = parts.find("encoders", name)
    assert issubclass(part, Encoder)
    documented = inspect.getdoc(part)
    for setting in config.schema(part):
        assert f"{setting}:" in documented, setting


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_compiles_without_breaks_and_exports_any_batch_and_length(name):
    encoder, x = settled(name), features(3, 40)
    with torch.no_grad():
        compiled = torch.compile(encoder, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), encoder(x), atol=1e-5, rtol=1e-5)
        batch = torch.export.Dim("batch", min=2, max=64)
        frames = torch.export.Dim("frames", min=10, max=2000)
        given = (x, counts(40, 30, 20))
        shapes = ({0: batch, 1: frames}, {0: batch})
        program = torch.export.export(encoder, given, dynamic_shapes=shapes).module()
        other, lengths = features(5, 61, seed=1), counts(61, 12, 40, 33, 60)
        torch.testing.assert_close(
            program(other, lengths), encoder(other, lengths), atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("name", NAMES)
def test_the_stages_one_after_the_other_are_the_encoder(name):
    encoder = settled(name)
    chain = encoder.stages()
    if not chain:
        return
    y = x = features(3, 50)
    with torch.no_grad():
        for stage in chain:
            y = stage.run(y)
            assert y.shape[-1] >= stage.channels > 0
        torch.testing.assert_close(y, encoder(x), atol=0, rtol=0)
    modules = [encoder.get_submodule(path) for stage in chain for path in stage.modules]
    owned = [id(p) for module in modules for p in module.parameters()]
    assert sorted(owned) == sorted(id(p) for p in encoder.parameters())
