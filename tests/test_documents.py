"""What the documents claim of the code."""

import re
from pathlib import Path

from transforms.tables import TABLES

ROOT = Path(__file__).parents[1]


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
