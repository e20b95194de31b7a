"""The project as one package, for programs that have an ``audio``, ``video`` or ``models`` of their own.

    from wav2lip import LipSync
    from wav2lip import adaptation, live, recipes, sync  # any other module

The project's modules are flat: they ``import audio``, like scripts in one folder. Here they become submodules of this
package (``wav2lip.audio``), and their imports refer to each other, even if other modules have the same names.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from errors import UserError
    from faces import FaceSearch
    from lipsync import LipSync, Options
    from reporting import Cancelled, Reporter

__all__ = ["Cancelled", "FaceSearch", "LipSync", "Options", "Reporter", "UserError"]

HERE = Path(__file__).resolve().parent
FLAT = HERE / "flat" if (HERE / "flat").is_dir() else HERE.parent  # when installed, or in the project's folder
FOLDERS = {path.parent.name for path in FLAT.glob("*/__init__.py")} - {__name__}
MODULES = {path.stem for path in FLAT.glob("*.py")} | FOLDERS
SOURCES = {
    "Cancelled": "reporting",
    "FaceSearch": "faces",
    "LipSync": "lipsync",
    "Options": "lipsync",
    "Reporter": "reporting",
    "UserError": "errors",
}
__path__ = [str(HERE), str(FLAT)]


def __getattr__(name: str) -> Any:
    """Import the names in ``__all__`` on first use: importing torch alone takes a second."""
    if name == "__version__":
        return importlib.import_module(f"{__name__}.version").version()
    if name not in SOURCES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{SOURCES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *SOURCES, *MODULES})


class ImportRewriter(ast.NodeTransformer):
    """Rewrites ``import audio`` to ``from wav2lip import audio``, and ``from audio`` to ``from wav2lip.audio``."""

    def visit_Import(self, node: ast.Import) -> list[ast.stmt]:
        made = [
            ast.ImportFrom(__name__, [alias], 0) if alias.name in MODULES else ast.Import([alias])
            for alias in node.names
        ]
        return [ast.copy_location(one, node) for one in made]  # or tracebacks would show the first line

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.ImportFrom:
        if not node.level and node.module and node.module.partition(".")[0] in MODULES:
            node.module = f"{__name__}.{node.module}"
        return node


class Loader(SourceFileLoader):
    def get_code(self, fullname: str) -> Any:
        """Always compile the source: cached bytecode belongs to the scripts, whose imports are not rewritten."""
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)

    def source_to_code(self, data: Any, path: Any, **options: Any) -> Any:  # type: ignore[override]
        return super().source_to_code(
            ast.fix_missing_locations(ImportRewriter().visit(ast.parse(data))), path, **options
        )


class Finder(MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name.startswith(f"{__name__}.") else None
        if spec and spec.origin and isinstance(spec.loader, SourceFileLoader):
            spec.loader = Loader(name, spec.origin)
        return spec


sys.meta_path.insert(0, Finder())
