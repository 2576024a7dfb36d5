"""The tour of the house: the files that it names exist, and hold the names that it says they hold."""

import ast
import re

import pytest

from tests.support.runs import ROOT

TOUR = (ROOT / "docs" / "house.md").read_text()
DECIDED = re.findall(r"^\| .+\? \| `(\S+\.py)` \| `(\w+)` \|$", TOUR, flags=re.M)
ROOMS = re.findall(r"^  (\w+)/ ", TOUR, flags=re.M)


def test_the_tour_answers_a_newcomers_questions() -> None:
    asked = re.findall(r"^\| (.+\?) \|", TOUR, flags=re.M)
    assert len(asked) == len(DECIDED) > 10
    for question in ("MI-FGSM's momentum", "ε kept on 8 bits", "`predictions.margin`", "worker is killed", "`alpha`"):
        assert any(question in each for each in asked)


@pytest.mark.parametrize(("file", "name"), DECIDED)
def test_what_the_tour_names_is_where_it_says(file: str, name: str) -> None:
    defined = {
        target.id if isinstance(target, ast.Name) else getattr(target, "name", None)
        for node in ast.walk(ast.parse((ROOT / file).read_text()))
        for target in (node.targets if isinstance(node, ast.Assign) else [node])
    }
    assert name in defined


def test_every_room_is_on_the_plan() -> None:
    """A folder that nobody explains, or an explained one that is gone."""
    folders = {each.parent.name for top in ("pipeline", "transforms") for each in (ROOT / top).glob("*/__init__.py")}
    assert set(ROOMS) == folders
