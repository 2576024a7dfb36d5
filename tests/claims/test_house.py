"""What the documents claim of the code, who may import whom, and what a worker is sent."""

import ast
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from transforms.rows.tables import TABLES

ROOT = Path(__file__).parents[2]


def test_every_column_is_documented_in_order() -> None:
    text = (ROOT / "docs" / "tables.md").read_text()
    for name, table in TABLES.items():
        section = re.split(r"^## ", text.partition(f"\n## {name}\n")[2], maxsplit=1, flags=re.M)[0]
        rows = re.findall(r"^\| (\w+) \| (.+?) \|", section, flags=re.M)[1:]
        assert [column for column, _ in rows] == table.schema.names
        assert {column for column, kind in rows if "*path*" in kind} == set(table.partitions)
        nullable = {field.name for field in table.schema if field.nullable}
        assert {column for column, kind in rows if "null" in kind} == nullable


def test_every_file_of_the_tour_exists() -> None:
    """A document that names a file which was moved is worse than none."""
    tour = (ROOT / "docs" / "house.md").read_text()
    folders = [
        ROOT / "pipeline",
        *(each for each in (ROOT / "transforms").rglob("*") if each.is_dir()),
        ROOT / "transforms",
    ]
    for name in set(re.findall(r"[a-z_]+\.py", tour)):
        assert any((folder / name).is_file() for folder in folders), name


def _imports(file: Path) -> set[str]:
    """The modules that a file imports anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("file", sorted((ROOT / "transforms").rglob("*.py")), ids=lambda file: file.name)
def test_transforms_never_import_the_pipeline_and_numerics_never_beam(file: Path) -> None:
    packages = {name.partition(".")[0] for name in _imports(file)}
    assert "pipeline" not in packages
    if file.parent.name in {"models", "attacks", "defenses"} or file.stem in {"decode", "classes", "distances"}:
        assert not packages & {"apache_beam", "pyarrow"}


def test_the_package_that_workers_build_is_complete(tmp_path: Path) -> None:
    """As Beam does for --setup_file: build a source distribution with what is installed here."""
    for name in ("pipeline", "transforms", "setup.py", "pyproject.toml", "README.md"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    command = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", "dist", "."]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    (built,) = (tmp_path / "dist").glob("*.tar.gz")
    with tarfile.open(built) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    ours = [*(ROOT / "pipeline").rglob("*.py"), *(ROOT / "transforms").rglob("*.py")]
    assert {str(each.relative_to(ROOT)) for each in ours} | {"transforms/data/imagenet_classes.csv"} <= packed
