"""Tables for papers, of runs made by hand."""

from pathlib import Path

import pytest

from pipeline.results import open_run
from pipeline.results.cases import chosen
from pipeline.results.crosstabs import crosstab
from pipeline.results.formats import Sheet
from pipeline.results.statistics import Rate
from pipeline.results.tables import Run
from tests.support.made import answers, made_run, two_models
from transforms.errors import InputError
from transforms.rows.parts import variant_name


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return open_run(str(two_models(tmp_path_factory.mktemp("two"))))


def cells(sheet: Sheet) -> list[list[str]]:
    return [list(sheet.headings), *(list(row) for row in sheet.cells)]


def test_success_by_attack_and_model(run: Run) -> None:
    """Counts as in test_findings."""
    sheet = crosstab(run, "attack", "model")
    assert cells(sheet) == [
        ["attack", "m", "n"],
        ["pgd", str(Rate(3, 4)), str(Rate(1, 4))],
        ["aim", str(Rate(2, 3)), str(Rate(1, 3))],
    ]
    of = "of the images that the model gets right when clean and undefended"
    assert sheet.title == f"Attack success, {of}; view center, undefended"
    assert sheet.notes[0] == "Images, of how many, and Wilson's 95 % interval."
    assert sheet.notes[1] == "White-box, where the attack follows the model's gradients: pgd, aim on m."
    assert sheet.notes[2].endswith("whose own images do not count: aim (class 649; 1 left out).")


def test_accuracy_has_clean_images_and_the_worst_case(run: Run) -> None:
    sheet = crosstab(run, "model", "attack", "accuracy", worst=True)
    assert cells(sheet) == [
        ["model", "clean", "pgd", "aim", "worst case"],
        ["m", *map(str, (Rate(4, 6), Rate(1, 6), Rate(2, 6), Rate(0, 6)))],
        ["n", *map(str, (Rate(4, 6), Rate(3, 6), Rate(2, 6), Rate(2, 6)))],
    ]
    assert sheet.title == "Accuracy, of all images; view center, undefended"


def test_names_choose_and_order(run: Run) -> None:
    sheet = crosstab(run, "attack", "model", wanted={"attack": ["aim", "pgd", "aim"], "model": ["n"]})
    assert cells(sheet) == [["attack", "n"], ["aim", str(Rate(1, 3))], ["pgd", str(Rate(1, 4))]]


def test_the_numbers_are_those_of_the_cells(run: Run) -> None:
    numbers = crosstab(run, "attack", "model", denominator="all").numbers
    found = [(row.attack, row.model, row.successes, row.of, row.denominator) for row in numbers.itertuples()]
    assert sorted(found) == [
        ("aim", "m", 2, 5, "all"),
        ("aim", "n", 2, 5, "all"),
        ("pgd", "m", 5, 6, "all"),
        ("pgd", "n", 3, 6, "all"),
    ]


def test_the_models_of_the_common_images_are_named(run: Run) -> None:
    sheet = crosstab(run, "attack", "model", denominator="all-models-correct", wanted={"model": ["m"]})
    assert "of the images that all of m, n get right when clean and undefended" in sheet.title


def test_means_in_cells(tmp_path: Path) -> None:
    made = [{**row, "margin": margin} for row, margin in zip(answers([0, 0]), (2.0, 2.0), strict=True)]
    sheet = crosstab(open_run(str(made_run(tmp_path, made))), "attack", "model", "margin")
    assert cells(sheet) == [["attack", "m"], ["clean", "2 [2, 2]"]]


def test_an_adaptive_attack_is_shown_behind_the_defence_that_it_knows(tmp_path: Path) -> None:
    """Its variants are one more attack there; elsewhere they are shown only if they are asked for."""
    known = variant_name("pgd", "jpeg:quality=75")
    made = answers([0, 0])
    for defense, plain, adaptive in (
        ("none", [5, 5], [5, 0]),
        ("jpeg:quality=75", [0, 0], [5, 5]),
        ("blur:sigma=1.0", [0, 5], [0, 0]),
    ):
        made += answers([0, 0], defense=defense) if defense != "none" else []
        made += answers(plain, attack="pgd", defense=defense) + answers(adaptive, attack=known, defense=defense)
    struck = [
        {"image_id": f"i{n}", "attack": attack, "through": through}
        for n in range(2)
        for attack, through in (("pgd", "none"), (known, "jpeg:quality=75"))
    ]
    run = open_run(str(made_run(tmp_path, made, struck)))
    assert cells(crosstab(run, "defense", "attack")) == [
        ["defense", "pgd", "pgd, adaptive"],
        ["undefended", str(Rate(2, 2)), ""],
        ["jpeg:quality=75", str(Rate(0, 2)), str(Rate(2, 2))],
        ["blur:sigma=1.0", str(Rate(1, 2)), ""],
    ]
    assert chosen(run, {}, ("attack", "model"), clean=True)["attack"] == ["none", "pgd"]
    assert chosen(run, {"defense": ["jpeg:quality=75"]}, ("attack",), clean=False)["attack"] == ["pgd", known]
    assert cells(crosstab(run, "attack", "model")) == [["attack", "m"], ["pgd", str(Rate(2, 2))]]
    wanted = {"attack": [known], "defense": ["none"]}
    assert cells(crosstab(run, "attack", "model", wanted=wanted)) == [["attack", "m"], [known, str(Rate(1, 2))]]
    notes = crosstab(run, "defense", "attack").notes
    assert notes[-1] == "No attack on m knows blur:sigma=1.0: not attacked, which is not the same as that it holds."


def test_unlike_things_are_not_mixed(run: Run, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="model: m, n are not mixed; choose one with --model"):
        crosstab(run, "defense", "attack")
    with pytest.raises(InputError, match="attack: pgd, aim are not mixed; choose one with --attack"):
        crosstab(run, "model", "defense")
    with pytest.raises(InputError, match="aim and pgd have not the same target"):
        crosstab(run, "attack", "model", worst=True)
    views = [row for view in ("center", "ten-crop") for row in answers([0], view=view)]
    with pytest.raises(InputError, match="view: center, ten-crop are not mixed"):
        crosstab(open_run(str(made_run(tmp_path, views))), "attack", "model", "accuracy")


def test_wrong_names_are_refused(run: Run) -> None:
    with pytest.raises(InputError, match="unknown key 'modell'; did you mean 'model'"):
        crosstab(run, "attack", "modell")
    with pytest.raises(InputError, match="rows and columns are both model"):
        crosstab(run, "model", "model")
    with pytest.raises(InputError, match="unknown model 'o'; known: m, n"):
        crosstab(run, "attack", "model", wanted={"model": ["o"]})
    with pytest.raises(InputError, match="worst case: it is over attacks"):
        crosstab(run, "model", "view", worst=True, wanted={"attack": ["pgd"]})


@pytest.mark.filterwarnings("ignore:.*sets of predictions lack images")
def test_a_run_with_nothing_in_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no predictions yet"):
        crosstab(open_run(str(made_run(tmp_path / "empty"))), "attack", "model")
    clean = open_run(str(made_run(tmp_path / "clean", answers([0, 0]))))
    with pytest.raises(InputError, match="attack: none is known that counts here; the run has none"):
        crosstab(clean, "attack", "model")
