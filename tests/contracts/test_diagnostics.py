"""What every diagnostic promises, over every name in the folder and the README's example."""

import math

import pytest
import torch
from builders import on_device, readme_part

from speechssl import parts
from speechssl.interfaces import Diagnostic

N, D = 600, 16
NAMES = [*parts.names("diagnostics"), readme_part("diagnostics")]
PARTS = {name: parts.find("diagnostics", name) for name in NAMES}

WORDS = {"healthy", "watch", "collapsed", "undefined"}

# What the docstrings say: figures of directions do not see how long each embedding is, and those
# that are no means over dimensions do not see a rotation.
OF_DIRECTIONS = [
    "acr",
    "alignment",
    "centre_norm",
    "deviation",
    "garc",
    "residual_energy",
    "uniformity",
    "uniformity_indicator",
    "wasserstein_uniformity",
]
OVER_DIMENSIONS = ["deviation", "offdiagonal_correlation"]


def spread(*shape, seed=0):
    return on_device(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)))


def shaped(part, count=N, views=3):
    """Sizes of what a diagnostic takes."""
    return (count, D) if part.needs == "embeddings" else (views, count, D)


def healthy(part):
    """An even spread; views of an utterance resemble each other."""
    if part.needs == "embeddings":
        return spread(N, D)
    return spread(1, N, D) + 0.3 * spread(4, N, D, seed=1)


def collapsed(part):
    """One point; what is left of the spread is one line."""
    if part.needs == "embeddings":
        line = spread(N, 1, seed=1) * spread(1, D, seed=2)
        return 1 + 1e-2 * line + 1e-6 * spread(N, D)
    return 1 + 1e-6 * spread(4, N, D, seed=1)


def askew(part):
    """Neither: directions of different strength around a common offset."""
    strength = on_device(torch.linspace(0.2, 2.0, D))
    if part.needs == "embeddings":
        return strength * spread(200, D) + 0.5
    return strength * (spread(1, 200, D) + 0.7 * spread(3, 200, D, seed=1)) + 0.5


@pytest.fixture(params=PARTS)
def part(request):
    return PARTS[request.param]


@pytest.mark.parametrize("name", PARTS)
def test_it_is_a_diagnostic_with_one_line_for_the_table(name):
    part = PARTS[name]
    assert isinstance(part, Diagnostic)
    assert part.tells and "\n" not in part.tells and len(part.tells) < 100
    low, high = part.healthy(N, D)
    assert low < high
    assert part.better in ("lower", "higher", None) and part.needs in ("embeddings", "views")


def test_an_even_spread_is_healthy_and_collapse_is_seen(part):
    value = part.measure(healthy(part))
    assert part.verdict(value, N, D) == "healthy", value
    value = part.measure(collapsed(part))
    assert part.verdict(value, N, D) in ("collapsed", "undefined"), value


def test_one_common_vector_is_never_healthy(part):
    value = part.measure(on_device(torch.full(shaped(part), 0.3)))
    assert part.verdict(value, N, D) in ("collapsed", "undefined"), value


@pytest.mark.parametrize("fill", [0.0, 1e-30, -1.0, 1e18])
def test_a_constant_gives_a_number_and_a_word(part, fill):
    value = part.measure(on_device(torch.full(shaped(part), fill)))
    assert type(value) is float and part.verdict(value, N, D) in WORDS


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("everywhere", [True, False])
def test_what_is_not_finite_is_undefined(part, bad, everywhere):
    embeddings = spread(*shaped(part))
    if everywhere:
        embeddings.fill_(bad)
    else:
        embeddings[..., 5, 3] = bad
    value = part.measure(embeddings)
    assert type(value) is float and part.verdict(value, N, D) == "undefined"


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_few_utterances_give_a_number_and_a_word(part, count):
    value = part.measure(spread(*shaped(part, count)))
    assert type(value) is float
    said = part.verdict(value, count, D)
    assert said in WORDS and (count > 1 or said == "undefined")


def test_half_precision_is_close(part):
    embeddings = healthy(part)
    value = part.measure(embeddings.bfloat16())
    assert value == pytest.approx(part.measure(embeddings), rel=0.02, abs=0.02)


def test_the_embeddings_are_left_as_they_were(part):
    embeddings = askew(part)
    before = embeddings.clone()
    part.measure(embeddings)
    assert torch.equal(embeddings, before)


def test_the_order_of_utterances_does_not_matter(part):
    embeddings = askew(part)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(3))
    turned = part.measure(embeddings[..., order, :])
    assert turned == pytest.approx(part.measure(embeddings), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_scale_of_all_embeddings_does_not_matter(part, scale):
    """The healthy range is the same for every unit."""
    embeddings = askew(part)
    scaled = part.measure(scale * embeddings)
    assert scaled == pytest.approx(part.measure(embeddings), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("name", OF_DIRECTIONS)
def test_the_length_of_an_embedding_does_not_matter_to_figures_of_directions(name):
    embeddings = askew(PARTS[name])
    lengths = 0.1 + spread(*embeddings.shape[:-1], 1, seed=4).abs()
    value = PARTS[name].measure(lengths * embeddings)
    assert value == pytest.approx(PARTS[name].measure(embeddings), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("name", [name for name in PARTS if name not in OVER_DIMENSIONS])
def test_a_rotation_does_not_matter_to_figures_that_are_no_means_over_dimensions(name):
    embeddings = askew(PARTS[name])
    rotation, _ = torch.linalg.qr(spread(D, D, seed=5))
    value = PARTS[name].measure(embeddings @ rotation)
    assert value == pytest.approx(PARTS[name].measure(embeddings), rel=1e-3, abs=1e-4)
