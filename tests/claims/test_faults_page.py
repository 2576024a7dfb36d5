"""Each line of docs/faults.md names tests that there are."""

import re
from pathlib import Path

from tests.support.runs import ROOT


def test_each_fault_names_its_tests() -> None:
    lines = [line for line in (ROOT / "docs" / "faults.md").read_text().splitlines() if line.startswith("| ")][1:]
    assert len(lines) > 20
    for line in lines:
        named = re.findall(r"`(\w+\.py)::(\w+)`", line.split("|")[3])
        assert named, line
        for file, test in named:
            assert f"def {test}(" in Path(ROOT, "tests", file).read_text(), f"{file} has no {test}"
