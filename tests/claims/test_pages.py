"""Pages name tests that there are."""

import re

from tests.support.runs import ROOT


def test_each_fault_names_its_tests() -> None:
    lines = [line for line in (ROOT / "docs" / "faults.md").read_text().splitlines() if line.startswith("| ")][1:]
    assert len(lines) > 20
    files = {path.name: path for path in (ROOT / "tests").rglob("test_*.py")}
    for line in lines:
        named = re.findall(r"`(\w+\.py)::(\w+)`", line.split("|")[3])
        assert named, line
        for file, test in named:
            assert f"def {test}(" in files[file].read_text(), f"{file} has no {test}"


def test_pages_name_tests_by_their_paths() -> None:
    named = {
        (page.name, path)
        for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
        for path in re.findall(r"\btests/[\w/]+\.py", page.read_text())
    }
    assert len(named) >= 4
    assert [each for each in sorted(named) if not (ROOT / each[1]).is_file()] == []
