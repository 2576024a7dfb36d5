"""Each check of the hygiene section on rows made to pass it, to fail it, and to leave it open."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.report.hygiene import CHECKS, FAILED, OPEN, PASSED, answered, hygiene
from pipeline.report.section import Exhibit
from pipeline.results.tables import open_run
from tests.support.made import answers, made_run
from tests.support.runs import Row

pytestmark = pytest.mark.filterwarnings("ignore:.* lack images")

WHITE_BOX, EPS, STEPS, LARGE, NOISE, BUDGET, PUBLISHED, PUBLISHED_ROBUST, ADAPTIVE, UNTOUCHED = (
    check.title for check in CHECKS
)


def check(title: str, folder: Path, predictions: list[Row], attacks: list[Row], **published: float) -> Exhibit:
    run = open_run(str(made_run(folder / "run", predictions, attacks)))
    run.record = run.record.replace(published=published)
    (asked,) = [each for each in CHECKS if each.title == title]
    return answered(run, asked)


def attack(name: str, success: list[bool], **how: Any) -> list[Row]:
    return [{"image_id": f"i{n}", "attack": name, "success": each, **how} for n, each in enumerate(success)]


CLEAN = [*answers([0] * 4), *answers([0] * 4, model="other")]


@pytest.mark.parametrize(("white", "black", "status"), [(3, 2, PASSED), (2, 2, PASSED), (1, 2, FAILED)])
def test_white_box_and_black_box_under_one_attack(white: int, black: int, status: str, tmp_path: Path) -> None:
    seen = [
        *answers([9] * white + [0] * (4 - white), attack="pgd"),
        *answers([9] * black + [0] * (4 - black), attack="pgd", model="other"),
    ]
    found = check(WHITE_BOX, tmp_path, [*CLEAN, *seen], attack("pgd", [True] * 4, surrogates=["m"]))
    assert found.status == status
    (row,) = [each for each in found.table.records() if each["compared"] == "models under one attack"]
    assert (row["white_box"], row["black_box"]) == (white / 4, black / 4)


def test_a_black_box_attack_that_beats_the_white_box_one_fails(tmp_path: Path) -> None:
    seen = [
        *answers([9, 0, 0, 0], attack="own"),
        *answers([9, 9, 0, 0], attack="foreign"),
        *answers([9, 9, 9, 9], attack="foreign", model="other"),
    ]
    attacks = [*attack("own", [True] * 4), *attack("foreign", [True] * 4, surrogates=["other"])]
    found = check(WHITE_BOX, tmp_path, [*CLEAN, *seen], attacks)
    assert found.status == FAILED
    (row,) = [each for each in found.table.records() if each["holds"] is False]
    assert (row["compared"], row["what"], row["white_box"], row["black_box"]) == (
        *("attacks on one model", "m"),
        *(0.25, 0.5),
    )


def test_a_surrogate_alone_cannot_tell(tmp_path: Path) -> None:
    seen = [*answers([0] * 4), *answers([9] * 4, attack="pgd")]
    found = check(WHITE_BOX, tmp_path, seen, attack("pgd", [True] * 4))
    assert found.status == OPEN
    assert found.words == "Nothing here can tell. Show an attack to its own surrogate and to another target."


@pytest.mark.parametrize(("title", "key", "values"), [(EPS, "eps", (2 / 255, 8 / 255)), (STEPS, "steps", (5, 50))])
@pytest.mark.parametrize(("less", "more", "status"), [(1, 3, PASSED), (2, 2, PASSED), (3, 2, FAILED)])
def test_success_grows(
    title: str, key: str, values: tuple[float, float], less: int, more: int, status: str, tmp_path: Path
) -> None:
    attacks = [
        *attack("one", [True] * less + [False] * (4 - less), **{key: values[0]}),
        *attack("two", [True] * more + [False] * (4 - more), **{key: values[1]}),
        *attack("apart", [False] * 4, **{key: values[1]}, recipe="mi-fgsm"),
    ]
    found = check(title, tmp_path, [], attacks)
    assert found.status == status
    assert found.words.startswith(f"{int(status == PASSED)} of 1 attacks succeed")
    assert {row["series"] for row in found.table.records()} == {"one, two"}


def test_a_series_begins_with_the_least(tmp_path: Path) -> None:
    """2/255 is less than 16/255, whatever letters say, and whichever attack came first."""
    attacks = [*attack("large", [True], eps=16 / 255), *attack("small", [True], eps=2 / 255)]
    assert {row["series"] for row in check(EPS, tmp_path, [], attacks).table.records()} == {"small, large"}


def test_attacks_that_differ_in_more_than_one_key_are_no_series(tmp_path: Path) -> None:
    attacks = [*attack("one", [True], eps=2 / 255, steps=5), *attack("two", [False], eps=4 / 255, steps=6)]
    assert check(EPS, tmp_path, [], attacks).status == OPEN


@pytest.mark.parametrize(
    ("success", "eps", "status"),
    [([True, True], 4 / 255, PASSED), ([True, False], 128 / 255, FAILED), ([True, False], 4 / 255, OPEN)],
)
def test_a_large_budget(success: list[bool], eps: float, status: str, tmp_path: Path) -> None:
    assert check(LARGE, tmp_path, [], attack("pgd", success, eps=eps)).status == status


@pytest.mark.parametrize(
    ("sigma", "right", "status"), [("0.02", 4, PASSED), ("0.02", 2, FAILED), ("0.001", 4, OPEN), (None, 0, OPEN)]
)
def test_noise_of_the_same_norm(sigma: str | None, right: int, status: str, tmp_path: Path) -> None:
    """An L2 norm of 388 levels on 3 × 224 × 224 values is one level each on average, or 0.0039."""
    seen = [*CLEAN]
    if sigma:
        seen += answers([0] * right + [9] * (4 - right), defense=f"noise:sigma={sigma},repeats=5")
    found = check(NOISE, tmp_path, seen, attack("pgd", [True] * 4, l2=(3 * 224 * 224) ** 0.5 / 255))
    assert found.status == status
    (row,) = found.table.records()
    assert row["rms"] == pytest.approx(1 / 255)


@pytest.mark.parametrize(
    ("how", "status"),
    [
        ({"linf": 4 / 255}, PASSED),
        ({"linf": 5 / 255}, FAILED),
        ({"norm": "l2", "eps": 1.0, "l2": 0.9, "linf": 9 / 255}, PASSED),
        ({"norm": "l1", "eps": 50.0, "l1": 51.0}, FAILED),
    ],
)
def test_the_budget(how: Row, status: str, tmp_path: Path) -> None:
    within = {"image_id": "within", "attack": "pgd", **how, "linf": 0.0, "l2": 0.0, "l1": 0.0}
    assert check(BUDGET, tmp_path, [], [*attack("pgd", [True], **how), within]).status == status


@pytest.mark.parametrize(("published", "status"), [(0.9, PASSED), (1.0, FAILED), (None, OPEN)])
def test_clean_accuracy_and_the_published_one(published: float | None, status: str, tmp_path: Path) -> None:
    """Of 10 of 20 right, Wilson's upper bound is 0.70; with 15 of 20 it is 0.89."""
    right = 15 if published == 0.9 else 10
    known = {} if published is None else {"m": published}
    found = check(PUBLISHED, tmp_path, answers([0] * right + [1] * (20 - right)), [], **known)
    assert found.status == status
    if known:
        assert found.table.column("high") == pytest.approx([0.888 if right == 15 else 0.701], abs=1e-3)


def test_adaptive_attacks(tmp_path: Path) -> None:
    seen = [*answers([0]), *answers([0], defense="blur:sigma=1"), *answers([0], defense="jpeg:quality=75")]
    plain = attack("pgd", [True])
    assert check(ADAPTIVE, tmp_path / "blind", seen, plain).words.startswith("0 of 2 pairs")
    knows = [row for each in ("blur:sigma=1", "jpeg:quality=75") for row in attack(f"pgd@{each}", [True], through=each)]
    assert check(ADAPTIVE, tmp_path / "half", seen, [*plain, *knows[:1]]).status == FAILED
    assert check(ADAPTIVE, tmp_path / "all", seen, [*plain, *knows]).status == PASSED
    assert check(ADAPTIVE, tmp_path / "none", answers([0]), plain).status == OPEN


def test_images_left_as_they_were(tmp_path: Path) -> None:
    left = {"l0": 0, "linf": 0.0, "clean_predicted": 7}
    found = check(
        UNTOUCHED, tmp_path, [], [*attack("fmn", [True, True])[:1], {"image_id": "i1", "attack": "fmn", **left}]
    )
    assert found.status == FAILED
    assert found.table.records()[0]["untouched"] == 1
    reached = {**left, "clean_predicted": 0}  # right when clean, and the attack found nothing
    found = check(UNTOUCHED, tmp_path / "2", [], [{"image_id": "i1", "attack": "fmn", "success": False, **reached}])
    assert found.status == PASSED


def test_statuses_are_counted(tmp_path: Path) -> None:
    section = hygiene(open_run(str(made_run(tmp_path / "run"))))
    assert section is not None
    assert section.words[0].startswith(f"0 passed, 0 failed, {len(CHECKS)} not answerable. ")


@pytest.mark.parametrize(("right", "status"), [(9, PASSED), (0, FAILED), (18, FAILED)])
def test_robust_accuracy_and_the_published_one(right: int, status: str, tmp_path: Path) -> None:
    """Of 20 images, against 0.40 published: 0 reach up to 0.16, 9 from 0.26 to 0.66, 18 down to 0.70."""
    seen = [*answers([0] * 20), *answers([0] * right + [1] * (20 - right), attack="sure")]
    how = {"recipe": "autoattack", "eps": 4 / 255, "surrogates": ["m"]}
    struck = [*attack("sure", [True] * 20, **how), *attack("else", [True] * 20, **{**how, "recipe": "pgd"})]
    run = open_run(str(made_run(tmp_path / "run", seen, struck)))
    (asked,) = [each for each in CHECKS if each.title == PUBLISHED_ROBUST]
    assert answered(run, asked).status == OPEN
    run.record = run.record.replace(published_robust={"m": 0.4, "other": 0.4})
    found = answered(run, asked)
    assert (found.status, found.table.column("successes")) == (status, [right, None])
