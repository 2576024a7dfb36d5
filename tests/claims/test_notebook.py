"""docs/tour.ipynb, from its first cell to its last."""

import os
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from pipeline.results.tables import open_run
from tests.support.runs import ROOT

TOUR = ROOT / "docs" / "tour.ipynb"


def read() -> Any:
    return nbformat.read(TOUR, as_version=4)


def test_the_notebook_holds_no_outputs() -> None:
    """They would be megabytes that nobody can review, and older than the code above them."""
    nbformat.validate(read())
    cells = [cell for cell in read().cells if cell.cell_type == "code"]
    assert len(cells) > 5
    assert [cell for cell in cells if cell.outputs or cell.execution_count] == []


@pytest.mark.system
def test_the_notebook_goes_from_a_run_to_a_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    notebook = read()
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()

    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    kinds = [kind for output in shown for kind in output.get("data", {})]
    assert kinds.count("text/html") == 2 and kinds.count("image/png") == 1
    figure = shown[-1]["data"]["image/svg+xml"]
    rates = open_run(str(tmp_path / "runs" / "tour")).success()
    wanted = {(row.rate, row.attack, row.model) for row in rates.itertuples() if row.defense == "none"}
    drawn = re.findall(r'aria-label="rate: ([\d.]+); attack: ([\w-]+); model: (\w+)"', figure)
    assert {(float(rate), attack, model) for rate, attack, model in drawn} == wanted
    assert len(wanted) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
