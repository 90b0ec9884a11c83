"""Pickles from the web, read without running what they ask for.

The REFER annotation files (`refs(unc).p`) are pickles, and a pickle may name any function to be called while
it loads. The reader here builds plain containers, numbers and text itself and refuses every other name.
"""

from __future__ import annotations

import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

_NUMPY_KINDS = "biufc"
"""Kinds of numpy numbers: bool, integers, floats, complex."""

_DAMAGE = (
    pickle.UnpicklingError,
    AttributeError,
    EOFError,
    ImportError,
    IndexError,
    KeyError,
    MemoryError,
    OverflowError,
    TypeError,
    ValueError,
    struct.error,
)
"""What the standard unpickler raises on a cut or garbled file."""


class RefusedPickleError(ValueError):
    """A pickle asked for something other than plain data."""


class _NumpyType:
    """Stand-in for `numpy.dtype`: keeps the code ("i8") and byte order, calls nothing of numpy's."""

    __slots__ = ("code", "order")

    def __init__(self, code: str, *_: bool) -> None:
        if not isinstance(code, str) or code[:1] not in _NUMPY_KINDS or not code[1:].isdigit():
            raise RefusedPickleError(f"numpy type {code!r} is not admitted; plain numbers only")
        self.code = code
        self.order = "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = ">" if state[1] == ">" else "<"


def _number(numpy_type: _NumpyType, data: bytes | str) -> bool | int | float | complex:
    """Python number of a pickled numpy scalar."""
    if not isinstance(numpy_type, _NumpyType):
        raise RefusedPickleError("a numpy scalar without a plain number type is not admitted")
    raw = data.encode("latin-1") if isinstance(data, str) else data
    return np.frombuffer(raw, dtype=numpy_type.order + numpy_type.code)[0].item()


def _nested(data: bytes | str, numpy_type: _NumpyType, shape: tuple[int, ...], order: str) -> list[Any]:
    """Nested lists of the numbers of a pickled numpy array; an array without numbers is one empty list."""
    if not isinstance(numpy_type, _NumpyType):
        raise RefusedPickleError("a numpy array without a plain number type is not admitted")
    if any(not isinstance(side, int) or side < 0 for side in shape):
        raise RefusedPickleError(f"a numpy array of shape {shape} is not admitted")
    raw = data.encode("latin-1") if isinstance(data, str) else data
    values = np.frombuffer(raw, dtype=numpy_type.order + numpy_type.code)
    if 0 in shape or not shape:
        return values.tolist()
    return values.reshape(shape, order="F" if order == "F" else "C").tolist()


class _Array(list[Any]):
    """Stand-in for `numpy.ndarray`: a list that takes its numbers from the array's pickled state."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, numpy_type, is_fortran, data = state
        self[:] = _nested(data, numpy_type, shape, "F" if is_fortran else "C")


def _empty_array(*_: object) -> _Array:
    """Array that has no numbers yet."""
    return _Array()


def _array_type(*_: object) -> None:
    """The name `numpy.ndarray`, which a pickle may mention and not call."""
    raise RefusedPickleError("it calls numpy.ndarray; arrays come as their own pickled form only")


def _latin_bytes(text: str, encoding: str) -> bytes:
    """Bytes that Python 3 wrote in an old pickle protocol as text with an encoding."""
    if encoding not in ("latin1", "latin-1"):
        raise RefusedPickleError(f"_codecs.encode with {encoding!r} is not admitted")
    return text.encode("latin-1")


def _no_bytes() -> bytes:
    """The empty bytes object, which old protocols write as a call of `bytes`."""
    return b""


_ADMITTED: dict[tuple[str, str], Callable[..., Any]] = {
    ("_codecs", "encode"): _latin_bytes,
    ("numpy", "dtype"): _NumpyType,
    ("collections", "OrderedDict"): OrderedDict,
    **{("builtins", kind.__name__): kind for kind in (set, frozenset)},
    **{("__builtin__", kind.__name__): kind for kind in (set, frozenset)},
    ("builtins", "bytes"): _no_bytes,
    ("__builtin__", "bytes"): _no_bytes,
    ("numpy", "ndarray"): _array_type,
    **{(f"numpy.{core}.multiarray", "scalar"): _number for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _empty_array for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _nested for core in ("core", "_core")},
}
"""The only names that a pickle may mention, each with the function of ours that stands for it."""


class _Admitted:
    """One admitted name: can be called, and nothing in the pickle can change it."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: object) -> object:
        return self._function(*arguments)

    def __setstate__(self, state: object) -> None:
        raise RefusedPickleError("it tries to change a function while it loads; nothing was run")


class _PlainUnpickler(pickle.Unpickler):
    """Unpickler that looks names up in `_ADMITTED` and nowhere else."""

    def find_class(self, module: str, name: str) -> _Admitted:
        """Our own function for an admitted name; every other name is an error."""
        if (module, name) not in _ADMITTED:
            raise RefusedPickleError(
                f"it asks for {module}.{name}, which is not plain data; nothing was run. "
                "Get the file from the dataset's own page, or use the dataset's JSON form"
            )
        return _Admitted(_ADMITTED[(module, name)])


def load_plain_pickle(path: Path) -> object:
    """Content of a pickle made of dicts, lists, tuples, sets, numbers, text, bytes, booleans and None.

    numpy scalars come back as Python numbers, numpy arrays of numbers as nested lists (boxes of D-cube).
    Text that Python 2 wrote is read as UTF-8, else as Latin-1.

    Args:
        path: the pickle file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the pickle asks for anything else (named in the message), or is cut or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found")
    try:
        return _load(path, "utf-8")
    except UnicodeDecodeError:
        return _load(path, "latin-1")


def _load(path: Path, encoding: str) -> object:
    """One attempt to read, with one way to understand the text of Python 2."""
    with path.open("rb") as stream:
        try:
            return _PlainUnpickler(stream, fix_imports=False, encoding=encoding).load()
        except UnicodeDecodeError:
            raise
        except RefusedPickleError as error:
            raise RefusedPickleError(f"{path} refused: {error}") from None
        except _DAMAGE as error:
            raise ValueError(
                f"{path} is not a readable pickle ({type(error).__name__}: {error}); "
                "it is cut or damaged, download it again"
            ) from error
