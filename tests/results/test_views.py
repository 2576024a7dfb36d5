"""The views beside the tables, against plain Python and hand-made cases; what they mean, against the documents."""

import csv
import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.results.tables import SCHEMA, Run, open_run
from pipeline.results.views import MEANINGS, VIEWS
from tests.support.made import answers, made_run
from tests.support.runs import ROOT, Finished, Row, rows
from transforms.rows.tables import TABLES


def of(run: Run, view: str) -> list[Row]:
    headings, found = run.rows(f"from {view}")
    return [dict(zip(headings, row, strict=True)) for row in found]


def key(row: Row, *names: str) -> tuple[Any, ...]:
    return tuple(row[name] for name in names)


KEYS = ("image_id", "attack", "model", "view", "defense")


def class_names() -> list[str]:
    with (ROOT / "transforms" / "data" / "imagenet_classes.csv").open(newline="", encoding="utf-8") as file:
        return [row["name"] for row in csv.DictReader(file)]


def expected(seen: Row, tables: dict[str, list[Row]], names: list[str]) -> Row:
    """What `answers` should say beside a prediction, found by looking through the tables."""
    (attack,) = [a for a in tables["attacks"] if key(a, "image_id", "attack") == key(seen, "image_id", "attack")] or [
        {}
    ]
    clean = [
        each
        for each in tables["predictions"]
        if each["attack"] == each["defense"] == "none"
        and key(each, "image_id", "view") == key(seen, "image_id", "view")
    ]
    (own,) = [each["correct"] for each in clean if each["model"] == seen["model"]] or [None]
    success = None
    if seen["attack"] != "none" and seen["target"] is None:
        success = not seen["correct"]
    elif seen["attack"] != "none" and seen["target"] != seen["label"]:
        success = seen["predicted"] == seen["target"] and not seen["abstained"]
    assert seen["votes"] is None and seen["agreement"] is None  # nothing is drawn, so all verdicts are one
    verdicts = {
        "majority": seen["predicted"],
        **dict.fromkeys(("majority_correct", "worst_correct"), seen["correct"]),
        **dict.fromkeys(("majority_success", "worst_success"), success),
    }
    same = ("label", "predicted", "predicted_name", "target", "confidence", "label_confidence", "target_confidence")
    of_attack = ("recipe", "surrogates", "through", "norm", "eps", "bounds", "steps", "linf", "l2", "ssim")
    return {
        **{name: seen[name] for name in (*KEYS, *same, "margin", "correct", "votes", "agreement", "abstained")},
        **{name: attack.get(name) for name in of_attack},
        "label_name": names[seen["label"]],
        "target_name": None if seen["target"] is None else names[seen["target"]],
        **verdicts,
        "asked": False,
        "clean_correct": own,
        "all_models_correct": all(each["correct"] for each in clean) if clean else None,
        "success": success,
        "white_box": seen["model"] in attack["surrogates"] if attack else None,
        "surrogates_fooled": attack.get("success"),
    }


def test_answers_say_of_each_prediction_what_the_tables_say(small_run: Finished) -> None:
    tables = {name: rows(small_run.output, name) for name in ("predictions", "attacks")}
    names = class_names()
    wanted = {key(seen, *KEYS): expected(seen, tables, names) for seen in tables["predictions"]}
    answered = of(open_run(str(small_run.output)), "answers")
    found = {key(row, *KEYS): row for row in answered}
    assert found == wanted
    assert len(answered) == len(found) == 7 * 4 * 2 * 3
    for name in ("clean_correct", "all_models_correct", "success", "white_box", "surrogates_fooled"):
        assert {row[name] for row in found.values()} >= {True, False} - ({False} if name.endswith("correct") else set())


MEGALITH, PENGUIN = 649, 145


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two penguins, of which model m knows the first and model n both, and a megalith, of whose clean image m has no
    answer; an attack on m that aims at the megalith. Behind smoothing and by saccades m knows other penguins."""
    clean = answers({"i0": PENGUIN, "i1": 1}) + answers([PENGUIN, PENGUIN, MEGALITH], model="n")
    aimed = answers([MEGALITH, PENGUIN, MEGALITH], attack="aim") + answers([9, MEGALITH], attack="aim", model="n")
    smooth = answers([1, PENGUIN], defense="smoothing")
    voted = answers([MEGALITH, MEGALITH], defense="smoothing", attack="aim")
    voted[0]["abstained"], voted[1]["abstained"] = False, True
    saccades = answers([1, PENGUIN], view="saccades") + answers([1, MEGALITH], view="saccades", attack="aim")
    attacked = [
        {"image_id": f"i{n}", "attack": "aim", "target": MEGALITH, "surrogates": ["m"], "success": n != 1, "eps": 0.5}
        for n in range(3)
    ]
    labelled = [{"image_id": f"i{n}", "label": MEGALITH if n == 2 else PENGUIN} for n in range(3)]
    seen = [*clean, *aimed, *smooth, *voted, *saccades]
    return open_run(str(made_run(tmp_path_factory.mktemp("views"), seen, attacked, labelled)))


SAID = {
    # image, attack, model, view, defense: success, clean_correct, all_models_correct, white_box, surrogates_fooled
    ("i0", "none", "m", "center", "none"): (None, True, True, None, None),
    ("i1", "none", "m", "center", "none"): (None, False, False, None, None),
    ("i0", "none", "n", "center", "none"): (None, True, True, None, None),
    ("i1", "none", "n", "center", "none"): (None, True, False, None, None),
    ("i2", "none", "n", "center", "none"): (None, True, True, None, None),
    ("i0", "aim", "m", "center", "none"): (True, True, True, True, True),
    ("i1", "aim", "m", "center", "none"): (False, False, False, True, False),
    ("i2", "aim", "m", "center", "none"): (None, None, True, True, True),  # of the target class
    ("i0", "aim", "n", "center", "none"): (False, True, True, False, True),  # wrong, but not the target
    ("i1", "aim", "n", "center", "none"): (True, True, False, False, False),
    ("i0", "none", "m", "center", "smoothing"): (None, True, True, None, None),
    ("i1", "none", "m", "center", "smoothing"): (None, False, False, None, None),
    ("i0", "aim", "m", "center", "smoothing"): (True, True, True, True, True),
    ("i1", "aim", "m", "center", "smoothing"): (False, False, False, True, False),  # the votes were too close
    ("i0", "none", "m", "saccades", "none"): (None, False, False, None, None),
    ("i1", "none", "m", "saccades", "none"): (None, True, True, None, None),
    ("i0", "aim", "m", "saccades", "none"): (False, False, False, True, True),
    ("i1", "aim", "m", "saccades", "none"): (True, True, True, True, False),
}


def test_answers_of_a_run_made_by_hand(run: Run) -> None:
    names = ("success", "clean_correct", "all_models_correct", "white_box", "surrogates_fooled")
    found = of(run, "answers")
    assert {key(row, *KEYS): key(row, *names) for row in found} == SAID
    assert len(found) == len(SAID)
    assert {key(row, "label_name", "target_name") for row in found if row["attack"] == "aim"} == {
        ("king penguin", "megalith"),
        ("megalith", "megalith"),
    }
    assert {key(row, "recipe", "eps", "steps") for row in found} == {(None, None, None), ("pgd", 0.5, 10)}


def test_transfer_has_the_rows_that_count(run: Run) -> None:
    found = of(run, "transfer")
    assert {key(row, *KEYS): row["success"] for row in found} == {
        case: said[0] for case, said in SAID.items() if said[1] and said[0] is not None
    }
    assert len(found) == 5


def test_classes_are_the_thousand(run: Run) -> None:
    found = of(run, "classes")
    assert [row["class"] for row in found] == [*range(1000)]
    assert [row["class_name"] for row in found] == class_names()
    assert found[PENGUIN] == {"class": 145, "wnid": "n02056570", "class_name": "king penguin"}


def test_views_of_a_run_without_rows(tmp_path: Path) -> None:
    empty = open_run(str(made_run(tmp_path)))
    assert [of(empty, view) for view in VIEWS] == [[], []]


def test_the_schema_names_all_that_queries_may(run: Run) -> None:
    schema = run.schema()
    assert SCHEMA == ["table", "column", "type", "meaning"]
    assert [*dict.fromkeys(row[0] for row in schema)] == [*TABLES, *VIEWS, "classes"]
    for table in MEANINGS:
        described = run.rows(f"describe {table}")[1]
        assert [row[1:3] for row in schema if row[0] == table] == [row[:2] for row in described]
    assert all(meaning for *_, meaning in schema)


WORDS = {
    "string": "VARCHAR",
    "int16": "SMALLINT",
    "int32": "INTEGER",
    "int64": "BIGINT",
    "float": "FLOAT",
    "double": "DOUBLE",
    "bool": "BOOLEAN",
    "binary": "BLOB",
}


@pytest.mark.parametrize("name", MEANINGS)
def test_the_tables_page_says_the_same_of_each_column(name: str, run: Run) -> None:
    """Its types in its own words, and its meaning but for notes."""
    page = (ROOT / "docs" / "tables.md").read_text().partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    written = re.findall(r"^\| (\w+) \| (.+?) \| (.+?)(?: \[\d\])? \|$", page, flags=re.M)[1:]
    said = []
    for column, kind, meaning in written:
        of_list, word = re.fullmatch(r"(list of )?(\w+)(?:, null)?(?:, \*path\*)?", kind).groups()  # type: ignore[union-attr]
        said.append((name, column, WORDS[word] + "[]" * bool(of_list), meaning))
    assert said == [row for row in run.schema() if row[0] == name]
