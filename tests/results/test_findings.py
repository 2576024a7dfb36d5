"""Rates, means and worst cases of a run made by hand, counted by hand."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.results import findings, open_run
from pipeline.results.tables import Run
from tests.support.made import LABELS, answers, made_run, two_models
from transforms.errors import InputError


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return open_run(str(two_models(tmp_path_factory.mktemp("two"))))


def counts(finding: findings.Finding, *keys: str) -> dict[tuple[str, ...], tuple[int, int]]:
    return {tuple(getattr(row, key) for key in keys): (row.successes, row.of) for row in finding.rows.itertuples()}


# m is right of clean a b c e, n of a b d e. Images of class 649, e, do not count for aim.
SUCCESS = {
    # of all: pgd turns a b d e f on m, a c f on n; aim reaches 649 on a and c of both.
    "all": {("pgd", "m"): (5, 6), ("pgd", "n"): (3, 6), ("aim", "m"): (2, 5), ("aim", "n"): (2, 5)},
    "clean-correct": {("pgd", "m"): (3, 4), ("pgd", "n"): (1, 4), ("aim", "m"): (2, 3), ("aim", "n"): (1, 3)},
    # a b e; for aim a b.
    "all-models-correct": {("pgd", "m"): (3, 3), ("pgd", "n"): (1, 3), ("aim", "m"): (1, 2), ("aim", "n"): (1, 2)},
    # pgd: a b d e f; aim: a c.
    "surrogate-fooled": {("pgd", "m"): (5, 5), ("pgd", "n"): (2, 5), ("aim", "m"): (2, 2), ("aim", "n"): (2, 2)},
}


@pytest.mark.parametrize("denominator", SUCCESS)
def test_success_under_each_denominator(denominator: Any, run: Run) -> None:
    assert counts(findings.success(run, denominator), "attack", "model") == SUCCESS[denominator]


def test_the_usual_denominators(run: Run) -> None:
    assert counts(findings.measured(run, "success"), "attack", "model") == SUCCESS["clean-correct"]
    # Of all six: clean, m is right of a b c e; under pgd of c alone; under aim of b and e, whose class is the target.
    expected = {("none", "m"): (4, 6), ("none", "n"): (4, 6), ("pgd", "m"): (1, 6), ("pgd", "n"): (3, 6)}
    expected |= {("aim", "m"): (2, 6), ("aim", "n"): (2, 6)}
    assert counts(findings.measured(run, "accuracy"), "attack", "model") == expected


def test_only_some_cases(run: Run) -> None:
    found = findings.measured(run, "success", "all", {"attack": ["pgd", "it's"], "model": ["n"]})
    assert counts(found, "attack", "model") == {("pgd", "n"): (3, 6)}


def test_the_query_of_a_rate_answers_with_its_counts(run: Run) -> None:
    found = findings.measured(run, "success", "surrogate-fooled", {"model": ["n"]})
    names, rows = run.rows(found.sql)
    assert names == ["attack", "model", "view", "defense", "through", "successes", "of"]
    assert rows == [("aim", "n", "center", "none", "none", 2, 2), ("pgd", "n", "center", "none", "none", 2, 5)]


def test_a_mean_is_of_the_images_that_count(tmp_path: Path) -> None:
    clean, attacked = answers([0, 0, 5]), answers([0, 5, 5], attack="pgd")
    for row, margin in zip([*clean, *attacked], (1.0, 2.0, -4.0, 0.5, -1.0, -8.0), strict=True):
        row["margin"] = margin
    struck = [{"image_id": f"i{n}", "attack": "pgd"} for n in range(3)]
    run = open_run(str(made_run(tmp_path, [*clean, *attacked], struck)))
    found = {
        row.attack: (row.mean, row.of) for row in findings.measured(run, "margin", "clean-correct").rows.itertuples()
    }
    assert found == {"none": (1.5, 2), "pgd": (-0.25, 2)}
    found = {row.attack: (row.mean, row.of) for row in findings.measured(run, "margin").rows.itertuples()}
    assert found == {"none": (pytest.approx(-1 / 3), 3), "pgd": (pytest.approx(-8.5 / 3), 3)}


def test_robust_accuracy_is_of_images_right_under_every_attack(run: Run) -> None:
    # n is right of d and e, clean and under both; m of none.
    found = findings.worst_case(run, "accuracy")
    assert counts(found, "model") == {("m",): (0, 6), ("n",): (2, 6)}
    # Both attacks succeed on their surrogate with a and e; of e n is right.
    assert counts(findings.worst_case(run, "accuracy", "surrogate-fooled"), "model") == {("m",): (0, 2), ("n",): (1, 2)}
    # Under pgd alone also of b.
    found = findings.worst_case(run, "accuracy", None, {"attack": ["pgd"]})
    assert counts(found, "model") == {("m",): (1, 6), ("n",): (3, 6)}


def test_an_image_is_turned_if_some_attack_turns_it(tmp_path: Path) -> None:
    rows = [*answers([0, 0, 0, 9]), *answers([5, 0, 0, 9], attack="x"), *answers([0, 5, 0, 9], attack="y")]
    struck = [{"image_id": f"i{n}", "attack": attack, "success": n == 0} for n in range(4) for attack in ("x", "y")]
    run = open_run(str(made_run(tmp_path, rows, struck)))
    assert counts(findings.worst_case(run, "success"), "model") == {("m",): (2, 3)}
    assert counts(findings.worst_case(run, "success", "all"), "model") == {("m",): (3, 4)}
    assert counts(findings.worst_case(run, "success", "surrogate-fooled"), "model") == {("m",): (1, 1)}


def test_an_image_that_an_attack_lacks_has_no_worst_case(tmp_path: Path) -> None:
    """It would pass for robust because nobody attacked it."""
    rows = [*answers([0, 0, 0]), *answers([0, 0, 5], attack="x"), *answers([0, 5], attack="y")]
    struck = [{"image_id": row["image_id"], "attack": row["attack"]} for row in rows if "attack" in row]
    run = open_run(str(made_run(tmp_path, rows, struck)))
    assert counts(findings.worst_case(run, "accuracy"), "model") == {("m",): (1, 2)}


def test_an_image_that_is_wrong_when_clean_is_not_robust(tmp_path: Path) -> None:
    rows = [*answers([5, 0]), *answers([0, 0], attack="x")]
    run = open_run(str(made_run(tmp_path, rows, [{"image_id": f"i{n}", "attack": "x"} for n in range(2)])))
    for cases in (None, {"attack": ["x"]}, {"attack": ["none", "x"]}):
        assert counts(findings.worst_case(run, "accuracy", None, cases), "model") == {("m",): (1, 2)}


def test_what_has_no_worst_case_is_refused(run: Run) -> None:
    with pytest.raises(InputError, match="aim and pgd have not the same target"):
        findings.worst_case(run, "success")
    with pytest.raises(InputError, match="margin is a mean"):
        findings.worst_case(run, "margin")


@pytest.mark.filterwarnings("ignore:.*sets of predictions lack images")
def test_the_common_images_are_those_of_a_view(tmp_path: Path) -> None:
    """A model that is right in another view does not help, nor does its answer behind a defence."""
    rows = [*answers([0, 0], model="m"), *answers([0, 5], model="n"), *answers([5, 5], model="n", view="ten-crop")]
    rows += [*answers([0, 0], model="n", defense="blur:sigma=1"), *answers([5, 5], model="m", attack="x")]
    run = open_run(str(made_run(tmp_path, rows, [{"image_id": f"i{n}", "attack": "x"} for n in range(2)])))
    assert counts(findings.success(run, "all-models-correct"), "model") == {("m",): (1, 1)}


def test_names_of_metrics_and_denominators(run: Run) -> None:
    with pytest.raises(InputError, match="unknown metric 'sucess'; did you mean 'success'"):
        findings.measured(run, "sucess")
    with pytest.raises(InputError, match="unknown denominator 'clean'; did you mean 'clean-correct'"):
        findings.measured(run, "accuracy", "clean")


def test_all_images_are_there(run: Run) -> None:
    """The run made by hand is one that `open_run` has nothing to say of."""
    assert dict(zip(run.images["image_id"], run.images["label"], strict=True)) == LABELS
