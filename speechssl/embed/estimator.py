"""scikit-learn's conventions for `Embedder`, and what else it does with vectors.

scikit-learn asks for methods, not for base classes: they are written here, because importing
`sklearn.base` takes about as long as importing torch, and every embedding process would pay it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from speechssl.embed.batches import Matrix
from speechssl.embed.recordings import Source, only_column
from speechssl.errors import UserError

Container = Literal["default", "pandas", "polars"]
Self = TypeVar("Self", bound="Estimator")

PARAMETERS = ("model", "device", "precision", "batch_seconds", "max_seconds", "readers", "layer")
"""Names of the constructor's parameters, each of which is an attribute."""


class Estimator:
    """Base class of `Embedder`: a transformer of scikit-learn that is fitted already.

    Copies by `clone` share the model: weights are never changed here.
    """

    name: str = ""
    """Where the model is from: a folder or a name; "" for one that was made in Python."""
    _sklearn_output_config: dict[str, str]

    @property
    def dim(self) -> int:
        """D, size of an embedding."""
        raise NotImplementedError

    def embed_each(self, sources: Iterable[Source]) -> Matrix:
        """Return embeddings (N, D) of recordings; raise UserError for the first bad one."""
        raise NotImplementedError

    def fit(self: Self, X: Any = None, y: Any = None) -> Self:
        """Return the embedder; it is trained already."""
        return self

    def transform(self, X: Iterable[Source]) -> Any:
        """Return embeddings (N, D) float32 of recordings.

        An array has the sampling rate of the model, unless a dictionary states its own. After
        `set_output`, or under scikit-learn's `transform_output`, the result is a data frame.

        Raises:
            UserError: the first one that cannot be embedded.
        """
        matrix = self.embed_each(only_column(X))
        container = self._container()
        if container == "default":
            return matrix
        names = self.get_feature_names_out()
        if container == "polars":
            import polars

            return polars.DataFrame(matrix, schema=list(names), orient="row")
        import pandas

        index = X.index if isinstance(X, pandas.Series | pandas.DataFrame) else None
        return pandas.DataFrame(matrix, columns=names, index=index)

    def fit_transform(self, X: Iterable[Source], y: Any = None) -> Any:
        """Return `transform(X)`."""
        return self.transform(X)

    def set_output(self: Self, *, transform: Container | None = None) -> Self:
        """Choose what `transform` returns.

        Args:
            transform: "default" (an array), "pandas" or "polars"; None changes nothing.

        Raises:
            UserError: another word.
        """
        if transform is not None:
            if transform not in ("default", "pandas", "polars"):
                raise UserError(
                    f"set_output: unknown container {transform!r}; choose default, pandas or polars"
                )
            self._sklearn_output_config = {"transform": transform}
        return self

    def _container(self) -> str:
        """Return the container of this embedder, or else that of scikit-learn's configuration."""
        own = getattr(self, "_sklearn_output_config", {}).get("transform")
        if own is not None:
            return str(own)
        if "sklearn" not in sys.modules:  # nobody can have configured it
            return "default"
        from sklearn import get_config

        return str(get_config().get("transform_output", "default"))

    def get_feature_names_out(self, input_features: Any = None) -> npt.NDArray[np.object_]:
        """Return names (D,) of the columns of `transform`."""
        return np.array([f"embedding{index}" for index in range(self.dim)], dtype=object)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the constructor's parameters and their values."""
        return {name: getattr(self, name) for name in PARAMETERS}

    def set_params(self: Self, **params: Any) -> Self:
        """Change parameters of the constructor, as a search over `layer` does.

        Another device moves the model, also under the copies that `clone` made.

        Raises:
            UserError: there is no such parameter, or it cannot have this value; nothing changes.
        """
        for name in params:
            if name not in PARAMETERS:
                raise UserError(
                    f"Embedder has no parameter {name!r}; it has {', '.join(PARAMETERS)}"
                )
        if params:
            changed = type(self)(**{**self.get_params(), **params})
            vars(self).update(vars(changed))
        return self

    def to(self: Self, device: str | torch.device) -> Self:
        """Move the model to a device and return the embedder.

        Args:
            device: "cpu", "cuda", "cuda:1", "mps" ..., or "auto": a GPU where there is one.

        Raises:
            UserError: there is no such device.
        """
        return self.set_params(device=device)

    def similarity(self, a: Source, b: Source) -> Any:
        """Return the cosines of embeddings: 1 for the same direction, about 0 for strangers.

        Args:
            a: embeddings, an array (D,) or (N, D), or recordings in any form but an array
                (a path, bytes, a file object, a dictionary, a list of them), which are embedded.
            b: the same, (D,) or (M, D).

        Returns:
            A float for two single ones, else an array (N, M), or (N,) or (M,) where the other is
            single.

        Raises:
            UserError: a recording cannot be embedded; the arrays are no embeddings of this model.
        """
        left = self._directions(a)
        right = self._directions(b)
        cosines = left @ right.T
        return float(cosines) if cosines.ndim == 0 else cosines

    def embed(self, source: Source) -> Matrix:
        """Return the embedding (D,) of a recording, or those (N, D) of a list."""
        raise NotImplementedError

    def _directions(self, source: Source) -> npt.NDArray[np.float64]:
        """Return unit vectors (D,) or (N, D), float64, of embeddings or recordings."""
        vectors = source
        if isinstance(source, torch.Tensor):
            vectors = source.detach().cpu().float().numpy()
        elif isinstance(source, list | tuple) and _all_arrays(source):
            vectors = np.stack([np.asarray(vector) for vector in source])
        elif not isinstance(source, np.ndarray) or source.dtype.kind not in "fiu":
            vectors = self.embed(source)
        if vectors.ndim not in (1, 2) or vectors.shape[-1] != self.dim:
            raise UserError(
                f"similarity: an array of shape {vectors.shape} holds no embeddings of {self.dim}"
                " values; embed recordings first"
            )
        exact = np.asarray(vectors, np.float64)
        length = np.linalg.norm(exact, axis=-1, keepdims=True)
        if not (np.isfinite(length) & (length > 0)).all():
            raise UserError("similarity: an embedding is zero or not finite; it has no direction")
        directions: npt.NDArray[np.float64] = exact / length
        return directions

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_clone__(self: Self) -> Self:
        copy = type(self)(**self.get_params())
        copy.name = self.name
        if hasattr(self, "_sklearn_output_config"):
            copy._sklearn_output_config = dict(self._sklearn_output_config)
        return copy

    def __sklearn_tags__(self) -> Any:
        """Return scikit-learn's tags (from version 1.6 on): any list of recordings, no `y`."""
        from sklearn.utils import InputTags, Tags, TargetTags, TransformerTags

        return Tags(
            estimator_type=None,
            target_tags=TargetTags(required=False),
            transformer_tags=TransformerTags(preserves_dtype=["float32"]),
            requires_fit=False,
            input_tags=InputTags(two_d_array=False, string=True),
        )


def _all_arrays(vectors: list[Any] | tuple[Any, ...]) -> bool:
    """True for a list of embeddings: arrays (D,), as `embed` returns them, one at least."""
    return bool(vectors) and all(
        isinstance(vector, np.ndarray) and vector.dtype.kind == "f" for vector in vectors
    )
