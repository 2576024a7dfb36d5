"""A against B on the same images, counted by hand."""

from pathlib import Path

import pytest

from pipeline.results import open_run
from pipeline.results.comparisons import compared
from tests.support.runs import Finished, rows
from transforms.errors import InputError

pytestmark = pytest.mark.system

CLEAN = {"attack": "none", "model": "lite0", "view": "center", "defense": "none"}


def _right(output: Path, **case: str) -> dict[str, bool]:
    found = rows(output, "predictions")
    return {row["image_id"]: row["correct"] for row in found if all(row[key] == case[key] for key in case)}


def test_the_same_images_are_counted(small_run: Finished) -> None:
    attacked = {**CLEAN, "attack": "fgsm"}
    one, other = _right(small_run.output, **CLEAN), _right(small_run.output, **attacked)
    found = compared(open_run(str(small_run.output)), CLEAN, attacked)
    assert found.of == len(one) == 7
    assert found.both == sum(one[each] and other[each] for each in one)
    assert found.first == sum(one[each] and not other[each] for each in one) > 0
    assert found.second == sum(other[each] and not one[each] for each in one)


def test_what_cannot_be_compared_is_said(small_run: Finished) -> None:
    run = open_run(str(small_run.output))
    with pytest.raises(InputError, match="give attack, model, view, defense of each case, not attack"):
        compared(run, {"attack": "none"}, CLEAN)
    with pytest.raises(InputError, match="no image has a row of both none lite0 center none and none it's center none"):
        compared(run, CLEAN, {**CLEAN, "model": "it's"})
