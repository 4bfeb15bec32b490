"""Read untrusted pickles of arrays, lists, dictionaries, numbers and texts without running their code."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

from metarun.errors import MetarunError, in_one_line


def _encoded(text: str, encoding: str = "latin1") -> bytes:
    """Encode a text as bytes, as `_codecs.encode` does in pickles of Python 2; only latin1 is allowed."""
    if encoding not in ("latin1", "latin-1", "ascii"):
        raise pickle.UnpicklingError(f"a text in {encoding}")
    return text.encode("latin1")


def _functions() -> dict[tuple[str, str], Callable[..., Any]]:
    """Return the functions that pickles of numpy arrays refer to, by module and name."""
    reconstruct = np.ndarray((0,)).__reduce__()[0]
    from_buffer = np.zeros(1).__reduce_ex__(5)[0]
    scalar = np.float64(0).__reduce__()[0]
    found: dict[tuple[str, str], Callable[..., Any]] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): _encoded,
        ("collections", "OrderedDict"): OrderedDict,
    }
    for core in ("numpy.core", "numpy._core"):
        found[f"{core}.multiarray", "_reconstruct"] = reconstruct  # type: ignore[assignment]
        found[f"{core}.multiarray", "scalar"] = scalar  # type: ignore[assignment]
        found[f"{core}.numeric", "_frombuffer"] = from_buffer  # type: ignore[assignment]
    return found


class _Plain(pickle.Unpickler):
    _allowed = _functions()

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._allowed[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}") from None


def read_pickle(file: BinaryIO, name: str) -> Any:
    """Return the content of a pickle; texts of Python 2 are read as latin1.

    Raises:
        MetarunError: the pickle is damaged, or holds objects of other types.
    """
    try:
        return _Plain(file, encoding="latin1").load()
    except MemoryError:
        raise
    except Exception as error:  # on damaged bytes pickle raises any error
        raise MetarunError(f"{name} is no plain pickle ({in_one_line(error)[:120]})") from error
