"""Every clusterer keeps the contract of `interfaces.Clusterer`, and so does the README's example."""

import numpy as np
import pytest
from builders import readme_part

from speechssl import config, parts
from speechssl.errors import UserError

NAMES = [*parts.names("clustering"), readme_part("clustering")]
SMALL = {"n_clusters": 4, "n_centroids": 16}
"""Settings for 80 points; a clusterer is built with those of them that it has."""


def build(name):
    part = parts.find("clustering", name)
    settings = {key: value for key, value in SMALL.items() if key in config.schema(part)}
    return parts.build("clustering", {"name": name, **settings})


def points(each=20, dim=6, seed=0):
    """4 groups of unit vectors around orthogonal directions, and the group of each."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(4), each)
    rows = np.eye(4, dim)[truth] + 0.1 * rng.normal(size=(len(truth), dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype("f4"), truth


def partition(labels):
    """The sets of rows that share a label, and the set of outliers."""
    groups = {
        frozenset(np.flatnonzero(labels == label)) for label in np.unique(labels) if label >= 0
    }
    return groups, frozenset(np.flatnonzero(labels < 0))


@pytest.mark.parametrize("name", NAMES)
def test_a_label_for_every_row_from_0_or_minus_1(name):
    x, _ = points()
    given = x.copy()
    labels = build(name).fit_predict(x)
    assert isinstance(labels, np.ndarray)
    assert labels.shape == (80,) and labels.dtype == np.int64
    assert np.unique(labels[labels >= 0]).tolist() == list(range(labels.max() + 1))
    assert labels.min() >= -1
    assert np.array_equal(x, given)


@pytest.mark.parametrize("name", NAMES)
def test_fitting_again_gives_the_same_labels(name):
    x, _ = points()
    clusterer = build(name)
    first = clusterer.fit_predict(x)
    assert np.array_equal(first, clusterer.fit_predict(x))
    assert np.array_equal(first, build(name).fit_predict(x))


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_rows_does_not_matter_where_that_is_promised(name):
    if not parts.find("clustering", name).ORDER_FREE:
        pytest.skip("starts from random rows")
    x, _ = points()
    order = np.random.default_rng(1).permutation(len(x))
    labels = np.empty(len(x), np.int64)
    labels[order] = build(name).fit_predict(x[order])
    assert partition(labels) == partition(build(name).fit_predict(x))


@pytest.mark.parametrize("name", NAMES)
def test_rows_that_are_equal_share_a_cluster(name):
    x, _ = points()
    labels = build(name).fit_predict(np.concatenate([x, x]))
    assert np.array_equal(labels[:80], labels[80:])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("count", [1, 3])
def test_few_rows_are_labelled_or_refused_in_one_line(name, count):
    x, _ = points()
    try:
        labels = build(name).fit_predict(x[:count])
    except UserError as error:
        assert "\n" not in str(error) and str(error)
    else:
        assert labels.dtype == np.int64 and labels.shape == (count,)
        assert labels.min() >= -1 and labels.max() < count
