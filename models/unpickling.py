"""Read the tensors of TorchScript files, and numpy scalars, without running code from the file.

``torch.jit.load`` runs the ``__setstate__`` of every class that a TorchScript file defines, and ``torch.load`` takes
numpy scalars for code. Here, names in a file resolve only to the few stand-ins below.
"""

from __future__ import annotations

import contextlib
import pickle
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
import torch

_one_at_a_time = threading.Lock()
STORAGES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip
LISTS = ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist")


def is_torchscript(path: Path) -> bool:
    """Whether ``path`` is a zip that ``torch.jit.save`` wrote."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(PurePosixPath(name).name == "constants.pkl" for name in archive.namelist())


def read_torchscript(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a TorchScript file under their state-dict names, running none of its code.

    Raises pickle.UnpicklingError for a file that names anything but modules and tensors; damage can raise anything.
    """
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if PurePosixPath(name).name == "data.pkl")
        with archive.open(name) as file:
            root = _ScriptUnpickler(file, archive, str(PurePosixPath(name).parent)).load()
    return dict(_tensors_of(root))


def _tensors_of(module: Any, prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    for name, value in vars(module).items():
        if isinstance(value, torch.Tensor):
            yield prefix + name, value
        elif isinstance(value, _Attributes):
            yield from _tensors_of(value, f"{prefix}{name}.")


class _Attributes:
    """A module of a TorchScript file, without its code."""

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):  # only the class itself could read it
            raise pickle.UnpicklingError("global __setstate__")
        vars(self).update(state)


class _ScriptUnpickler(pickle.Unpickler):
    """Builds only tensors and modules that are mere attributes; every other name is refused."""

    def __init__(self, file: IO[bytes], archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(file)
        self._archive, self._folder = archive, folder
        self._module = type("Module", (_Attributes,), {})  # for this file only, which may set any attribute on it
        self._storages: dict[str, torch.Tensor] = {}  # (elements,), by key: tensors may share one

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "__torch__":
            return self._module
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self._tensor
        if (module, name) == ("collections", "OrderedDict"):  # the hooks of a tensor
            return dict
        if module == "torch.jit._pickle" and name in (*LISTS, "restore_type_tag"):
            return self._identity
        raise pickle.UnpicklingError(f"global {module}.{name}")

    def persistent_load(self, key: tuple[str, torch.dtype, str, str, int]) -> torch.Tensor:
        _, dtype, name, _, _ = key
        if name not in self._storages:
            content = bytearray(self._archive.read(f"{self._folder}/data/{name}"))
            self._storages[name] = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
        return self._storages[name]

    def _tensor(self, storage: torch.Tensor, offset: int, size: tuple, stride: tuple, *_: object) -> torch.Tensor:
        return storage.as_strided(size, stride, offset)

    def _identity(self, value: Any, *_: object) -> Any:
        return value


# --------------------------------------------------------------------------------------------------------------------
# Numpy scalars: a step, a learning rate, the best loss so far


class _DtypeStandIn:
    """Stand-in for ``numpy.dtype``."""

    def __init__(self, code: str, *_: object) -> None:
        self.code = code
        self.order: Any = "="  # one of those that numpy's stubs list

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1].replace("|", "=")  # "|": one byte has no order


def _scalar(kind: _DtypeStandIn, content: bytes) -> int | float | complex | bool:
    """Stand-in for numpy's ``scalar``, which numpy 2 moved to another module."""
    dtype = np.dtype(kind.code)
    if dtype.kind not in "biufc":
        raise pickle.UnpicklingError(f"global numpy.{dtype.name}")
    return np.frombuffer(content, dtype.newbyteorder(kind.order))[0].item()


def _stand_in(thing: Any, full_name: str) -> Any:
    thing.__module__, _, thing.__name__ = full_name.rpartition(".")
    thing.__qualname__ = thing.__name__
    return thing


@contextlib.contextmanager
def numpy_numbers() -> Iterator[None]:
    """Let ``torch.load(…, weights_only=True)`` read numpy scalars, as Python numbers, inside the block."""
    with _one_at_a_time:  # torch has one list for all threads
        before = torch.serialization.get_safe_globals()
        torch.serialization.add_safe_globals([
            _stand_in(type("dtype", (_DtypeStandIn,), {}), "numpy.dtype"),
            _stand_in(lambda *given: _scalar(*given), "numpy.core.multiarray.scalar"),
            _stand_in(lambda *given: _scalar(*given), "numpy._core.multiarray.scalar"),
        ])  # fmt: skip
        try:
            yield
        finally:
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(before)
