"""A against B on the same images, counted by hand."""

from pathlib import Path

import pytest
from scipy.stats import binomtest

from pipeline.results import open_run
from pipeline.results.comparisons import Compared, between, compared_sheet, flips_sheet, within
from pipeline.results.tables import Run
from tests.support.made import answers, made_run, two_models
from tests.support.runs import Finished, Row, rows
from transforms.errors import InputError


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return open_run(str(two_models(tmp_path_factory.mktemp("two"))))


def sides(compared: Compared, *keys: str) -> dict[tuple[str, ...], tuple[int, int, int]]:
    """Images, and those for which only one side is true."""
    return {
        tuple(getattr(row, key) for key in keys): (row.images, row.one_only, row.other_only)
        for row in compared.rows.itertuples()
    }


def test_models_on_the_same_images(run: Run) -> None:
    # Clean, m alone is right of c, n of d; under pgd m of c, n of b d e; under aim m of b, n of d.
    expected = {("none",): (6, 1, 1), ("pgd",): (6, 1, 3), ("aim",): (6, 1, 1)}
    found = within(run, "model")
    assert sides(found, "attack") == expected
    assert list(found.rows["attack"]) == ["none", "pgd", "aim"]
    assert set(found.rows["one"]) == {"m"} and set(found.rows["other"]) == {"n"}
    row = found.rows.set_index("attack").loc["pgd"]
    assert (row["one_mean"], row["other_mean"], row["difference"]) == pytest.approx((1 / 6, 3 / 6, -2 / 6))
    assert row["p"] == pytest.approx(binomtest(1, 4).pvalue)
    assert row["p_holm"] == 1.0


def test_only_images_that_count_on_both_sides(run: Run) -> None:
    """Of the images that m and n both get right when clean, a b e: pgd turns a b e on m, a on n."""
    found = within(run, "model", "success", wanted={"attack": ["pgd"]})
    assert sides(found, "attack") == {("pgd",): (3, 2, 0)}


def test_flips_name_the_images_and_the_answers(run: Run) -> None:
    flips = within(run, "model", wanted={"attack": ["pgd"]}).flips
    assert [(row.image_id, row.label, row.value_one, row.value_other) for row in flips.itertuples()] == [
        ("b", 2, False, True),
        ("c", 3, True, False),
        ("d", 4, False, True),
        ("e", 649, False, True),
    ]
    assert list(flips["answer_other"]) == ["great white shark", "tench", "hammerhead", "megalith"]


def test_p_values_are_corrected_for_all_pairs(tmp_path: Path) -> None:
    """Three models: a is right of all 12 images, b of 4, c of 3; three pairs."""
    models = {name: [0] * right + [5] * (12 - right) for name, right in (("a", 12), ("b", 4), ("c", 3))}
    made = [row for name, classes in models.items() for row in answers(classes, model=name)]
    found = within(open_run(str(made_run(tmp_path, made))), "model").rows
    assert list(zip(found["one"], found["other"], strict=True)) == [("a", "b"), ("a", "c"), ("b", "c")]
    exact = [2 * 0.5**8, 2 * 0.5**9, 1.0]
    assert list(found["p"]) == pytest.approx(exact)
    assert list(found["p_holm"]) == pytest.approx([2 * exact[0], 3 * exact[1], 1.0])
    sheet = compared_sheet(within(open_run(str(tmp_path)), "model"))
    assert [row[-1] for row in sheet.cells] == ["yes", "yes", "unclear"]
    assert sheet.notes[-1] == "Holm's p is corrected for 3 comparisons; the sides differ where it is below 0.05."


def test_models_in_the_worst_case(run: Run) -> None:
    """Right when clean and under both attacks: m of no image, n of d and e."""
    found = within(run, "model", worst=True)
    assert sides(found, "attack") == {("worst case",): (6, 0, 2)}
    assert list(found.flips["image_id"]) == ["d", "e"]
    assert found.notes[-1] == "Worst case over pgd, aim."
    assert (
        compared_sheet(found).title
        == "Accuracy, of all images; m (one) against n (other); worst case, view center, undefended"
    )
    again = between(run, run, worst=True)
    assert sides(again, "attack", "model") == {("worst case", "m"): (6, 0, 0), ("worst case", "n"): (6, 0, 0)}
    with pytest.raises(InputError, match="worst case: it is over attacks"):
        within(run, "attack", worst=True)


def test_a_picture_that_a_run_has_twice_counts_twice_there(tmp_path: Path) -> None:
    """As in rates."""
    made = [row for model, classes in (("a", [0, 0]), ("b", [0, 5])) for row in answers(classes, model=model)]
    images = _named({"i0": "same", "i1": "same"})
    found = within(open_run(str(made_run(tmp_path, made, images=images))), "model")
    assert sides(found, "attack") == {("none",): (2, 1, 0)}


def test_attacks_and_defences_are_compared_where_all_else_is_equal(tmp_path: Path) -> None:
    made = [*answers([0, 0, 0]), *answers([5, 5, 0], attack="x"), *answers([0, 5, 5], attack="y")]
    made += [*answers([0, 5, 0], defense="d"), *answers([0, 0, 0], attack="x", defense="d")]
    made += answers([0, 0, 5], attack="y", defense="d")
    struck = [{"image_id": f"i{n}", "attack": attack} for n in range(3) for attack in "xy"]
    run = open_run(str(made_run(tmp_path, made, struck)))
    assert sides(within(run, "attack"), "one", "other") == {("x", "y"): (3, 1, 1)}
    assert sides(within(run, "attack", wanted={"defense": ["d"]}), "one", "other") == {("x", "y"): (3, 1, 0)}
    assert within(run, "defense").notes[-1].startswith("No attack on m knows d: not attacked")
    assert sides(within(run, "defense"), "attack") == {("none",): (3, 1, 0), ("x",): (3, 0, 2), ("y",): (3, 0, 1)}


def test_numbers_are_compared_image_by_image(tmp_path: Path) -> None:
    made = [
        {**row, "margin": margin} for row, margin in zip(answers([0, 0, 0], model="a"), (3.0, 2.0, 1.0), strict=True)
    ]
    made += [
        {**row, "margin": margin} for row, margin in zip(answers([0, 0, 0], model="b"), (1.0, 1.0, 0.5), strict=True)
    ]
    (row,) = within(open_run(str(made_run(tmp_path, made))), "model", "margin").rows.itertuples()
    assert (row.one_mean, row.other_mean, row.difference, row.test) == (
        2.0,
        pytest.approx(2.5 / 3),
        pytest.approx(3.5 / 3),
        "permutation",
    )
    assert row.p == pytest.approx(2 / 2**3)
    with pytest.raises(InputError, match="margin is a number"):
        flips_sheet(within(open_run(str(tmp_path)), "model", "margin"))


def _named(images: dict[str, str]) -> list[Row]:
    """Images of these names and contents."""
    return [{"image_id": name, "bytes_sha256": content, "label": 0} for name, content in images.items()]


def test_runs_are_compared_on_images_of_the_same_bytes(tmp_path: Path) -> None:
    """x1 and x2 have other names in the second run, y is labelled otherwise there, and one picture is there twice."""
    here = _named({"p": "x1", "q": "x2", "r": "y", "s": "z"})
    there = _named({"1": "x1", "2": "x2", "3": "y", "4": "x1"})
    there[2]["label"] = 5
    one = made_run(tmp_path / "one", answers(dict.fromkeys("pqrs", 0)), images=here)
    other = made_run(tmp_path / "other", answers({"1": 0, "2": 7, "3": 5, "4": 7}), images=there)
    found = between(open_run(str(one)), open_run(str(other)))
    assert sides(found, "attack") == {("none",): (2, 1, 0)}
    assert found.notes[0] == "Of 4 images of one and 3 of other that count, 2 are the same."
    (flip,) = found.flips.itertuples()
    assert (flip.image_id, flip.answer_one, flip.answer_other) == ("q", "tench", "cock")


def test_what_runs_define_differently_is_said(tmp_path: Path) -> None:
    made = [*answers([0, 0]), *answers([0, 5], attack="pgd")]
    struck = [{"image_id": f"i{n}", "attack": "pgd"} for n in range(2)]
    one = made_run(tmp_path / "one", made, struck)
    other = made_run(tmp_path / "other", made, [{**row, "eps": 8 / 255, "steps": 20} for row in struck])
    found = between(open_run(str(one)), open_run(str(other)))
    assert found.notes[1] == 'The runs differ in attacks.pgd.steps 10 and 20; attacks.pgd.eps "4/255" and "8/255".'
    assert len(found.flips) == 0


def test_by_a_key_an_images_number_is_its_mean_over_the_rest(tmp_path: Path) -> None:
    """Two models of each run; of i0 both runs are right with both, of i1 the first with both, the second with one."""
    clean = [*answers([5, 5], model="a"), *answers([5, 5], model="b")]
    one = [*answers([0, 0], model="a", attack="x"), *answers([0, 0], model="b", attack="x")]
    other = [*answers([0, 0], model="a", attack="x"), *answers([0, 5], model="b", attack="x")]
    struck = [{"image_id": f"i{n}", "attack": "x"} for n in range(2)]
    runs = [
        open_run(str(made_run(tmp_path / name, [*clean, *made], struck)))
        for name, made in (("one", one), ("other", other))
    ]
    *_, row = between(runs[0], runs[1], by="attack").rows.itertuples()
    assert (row.attack, row.images, row.one_mean, row.other_mean, row.test) == ("x", 2, 1.0, 0.75, "permutation")
    lines = between(runs[0], runs[1], by="model").rows
    assert list(zip(lines["model"], lines["images"], lines["one_only"], lines["test"], strict=True)) == [
        ("a", 2, 0, "McNemar"),
        ("b", 2, 1, "McNemar"),
    ]


def test_a_single_image_has_no_interval_of_means(tmp_path: Path) -> None:
    made = [{**row, "margin": margin} for name, margin in (("a", 3.0), ("b", 1.0)) for row in answers([0], model=name)]
    sheet = compared_sheet(within(open_run(str(made_run(tmp_path, made))), "model", "margin"))
    assert sheet.cells[0] == ["1", "3", "1", "2", "", "", "1", "1", "unclear"]


def test_what_cannot_be_compared_is_said(run: Run, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown key 'modle'; did you mean 'model'"):
        within(run, "modle")
    with pytest.raises(InputError, match="nothing to compare view center with"):
        within(run, "view")
    with pytest.raises(InputError, match="unknown attack 'pdg'; did you mean 'pgd'"):
        within(run, "model", wanted={"attack": ["pdg"]})
    with pytest.raises(InputError, match="success: aim and pgd have not the same target"):
        within(run, "attack", "success")
    with pytest.raises(InputError, match="success: aim and pgd have not the same target"):
        between(run, run, "model", "success")
    elsewhere = open_run(str(made_run(tmp_path, answers([0, 0]))))
    with pytest.raises(InputError, match="no image with the same bytes, label and case"):
        between(run, elsewhere)


@pytest.mark.system
def test_a_real_run_by_counting(small_run: Finished) -> None:
    predictions = [row for row in rows(small_run.output, "predictions") if row["defense"] == "none"]
    right = {(row["attack"], row["model"], row["image_id"]): row["correct"] for row in predictions}
    found = within(open_run(str(small_run.output)), "model").rows
    assert list(found["attack"]) == ["none", "fgsm", "both", "pgd-l2"]
    for row in found.itertuples():
        pairs = [
            (value, right[row.attack, "lite1", image])
            for (attack, model, image), value in right.items()
            if (attack, model) == (row.attack, "lite0")
        ]
        assert (row.images, row.one_only) == (7, sum(one and not other for one, other in pairs))
        assert row.other_only == sum(other and not one for one, other in pairs)
