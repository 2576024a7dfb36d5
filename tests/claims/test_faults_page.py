"""Each line of docs/faults.md names tests that there are."""

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
