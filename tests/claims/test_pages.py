"""Pages name tests that there are, hold what was measured, and can be read beside code."""

import json
import re
from pathlib import Path

import pytest

from benchmarks.measuring import Measured, table
from tests.support.runs import ROOT


def test_each_fault_names_its_tests() -> None:
    listed = (ROOT / "docs" / "faults.md").read_text().partition("\n## How")[0]
    entries = re.split(r"^- ", listed, flags=re.M)[1:]
    assert len(entries) > 20
    files = {path.name: path for path in (ROOT / "tests").rglob("test_*.py")}
    for entry in entries:
        named = re.findall(r"`(\w+\.py)::(\w+)`", entry)
        assert named, entry
        for file, test in named:
            assert f"def {test}(" in files[file].read_text(), f"{file} has no {test}"


def test_the_table_of_performance_is_what_was_measured() -> None:
    found = json.loads((ROOT / "benchmarks" / "results.json").read_text())
    page = (ROOT / "docs" / "performance.md").read_text()
    assert table([Measured(**row) for row in found["rows"]]) in page
    machine = found["machine"]
    kept = [machine["processor"], f"{machine['fp32_gflops']} GFLOP/s", *machine["versions"].values()]
    assert [each for each in kept if each not in " ".join(page.split())] == []


def test_pages_name_tests_by_their_paths() -> None:
    named = {
        (page.name, path)
        for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
        for path in re.findall(r"\btests/[\w/]+\.py", page.read_text())
    }
    assert len(named) >= 4
    assert [each for each in sorted(named) if not (ROOT / each[1]).is_file()] == []


@pytest.mark.parametrize(
    "page",
    [*sorted(ROOT.glob("*.md")), ROOT / "data" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))],
    ids=lambda page: page.name,
)
def test_prose_has_at_most_110_columns(page: Path) -> None:
    """All but tables, figures, code, and the commands that make tables."""
    prose = re.sub(r"^```.*?^```|<!--.*?-->", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    long = [line for line in prose.splitlines() if len(line) > 110 and not line.startswith(("|", "!["))]
    assert long == []
