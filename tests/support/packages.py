"""A user's own package, installed for a test."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

Package = Callable[..., None]
"""(module, source, **entry points)."""


@contextmanager
def installing(group: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Package]:
    """Gives a function that installs a package with entry points of that group, and forgets what it installed."""
    installed = []

    def install(module: str, source: str, **points: str) -> None:
        (folder / f"{module}.py").write_text(source)
        metadata = folder / f"{module}-0.1.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 0.1\n")
        lines = [f"{name} = {value}" for name, value in points.items()]
        (metadata / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines, ""]))
        monkeypatch.syspath_prepend(str(folder))
        installed.append(module)

    yield install
    for module in installed:
        sys.modules.pop(module, None)
