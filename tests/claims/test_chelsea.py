"""The picture at the top of the README shows what a run gives."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from docs.chelsea import PICTURE, drawn, tiles, words
from tests.support.runs import ROOT


def test_who_does_not_see_it_reads_what_it_shows() -> None:
    (said,) = re.findall(r"^!\[(.*)\]\(docs/chelsea\.png\)$", (ROOT / "README.md").read_text(), flags=re.M)
    assert said == Image.open(PICTURE).text["Description"]  # type: ignore[attr-defined]


@pytest.mark.system
def test_made_anew_it_is_the_same(tmp_path: Path) -> None:
    """Confidences are rounded in the picture; another processor may change their last digit and single pixels."""
    shown = tiles(tmp_path)
    kept = Image.open(PICTURE)
    names = [tile.seen.partition(",")[0] for tile in shown]
    assert names == re.findall(r": (.*?)(?:, \d+%)?(?:;|$)", kept.text["Description"])  # type: ignore[attr-defined]
    assert [names[0], names[2]] == ["tiger cat", "megalith"] and names[3].endswith("cat")
    anew = drawn(shown)
    assert anew.size == kept.size
    assert np.abs(np.asarray(anew, int) - np.asarray(kept.convert("RGB"), int)).mean() < 2
    assert words(shown).startswith("photograph: tiger cat")
