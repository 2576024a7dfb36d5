"""Each row's own target: denominators, means over several targets, and comparisons, counted by hand."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.results import findings, open_run
from pipeline.results.comparisons import between, within
from pipeline.results.crosstabs import crosstab
from pipeline.results.leaderboards import leaderboard
from pipeline.results.statistics import Mean, Rate
from pipeline.results.tables import Run
from tests.support.made import answers, made_run
from tests.support.runs import Row
from transforms.errors import InputError
from transforms.rows.parts import experiments_name, targeted_name, untargeted_name, variant_name

LABELS = {"a": 1, "b": 2, "c": 3, "d": 4}
CLEAN = {"a": 1, "b": 2, "c": 3, "d": 0}
"""What model m says of the clean images: it is right about a, b and c."""
WANTED = {
    "own": {"a": 7, "b": 2, "c": 8, "d": 9},  # of b its label
    "other": {"a": 7, "b": 5, "c": 8, "d": 9},
    "ten:target=1": dict.fromkeys(LABELS, 1),  # of a its label
    "ten:target=9": dict.fromkeys(LABELS, 9),
}
SAID = {
    "own": {"a": 7, "b": 2, "c": 7, "d": 9},
    "other": {"a": 7, "b": 5, "c": 8, "d": 4},
    "ten:target=1": {"a": 1, "b": 1, "c": 1, "d": 1},
    "ten:target=9": {"a": 9, "b": 9, "c": 3, "d": 4},
}


def made(folder: Path, wanted: dict[str, dict[str, int]], **changes: Any) -> Run:
    predictions = answers(CLEAN)
    attacks: list[Row] = []
    for attack, targets in wanted.items():
        said = SAID[attack]
        predictions += [{**row, "target": targets[row["image_id"]]} for row in answers(said, attack=attack)]
        attacks += [
            {"image_id": each, "attack": attack, "target": target, "success": said[each] == target}
            for each, target in targets.items()
        ]
    images = [{"image_id": each, "label": label} for each, label in LABELS.items()]
    return open_run(str(made_run(folder, predictions, attacks, images, **changes)))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    listed = {"recipe": "pgd", "surrogates": ["m"], "target": [1, 9]}
    named = {"own": {"target": "column:T"}, "other": {"target": "random"}, "ten": listed}
    return made(tmp_path_factory.mktemp("targets"), WANTED, experiment={"attacks": named})


def cells(run: Run, **more: Any) -> dict[str, str]:
    return {row[0]: row[1] for row in crosstab(run, "attack", "model", **more).cells}


def test_names_of_attacks_with_several_targets() -> None:
    one = targeted_name("ten", "random:2")
    assert one == "ten:target=random:2"
    knowing = variant_name(one, "jpeg:quality=75")
    assert untargeted_name(one) == untargeted_name("ten") == experiments_name(knowing) == "ten"
    assert untargeted_name(knowing) == variant_name("ten", "jpeg:quality=75")


def test_success_is_of_the_images_whose_label_is_not_their_target(run: Run) -> None:
    """Of a, b and c, which m gets right when clean, b is what `own` wants of it, and a what `ten:target=1` does."""
    found = cells(run)
    assert found["own"] == str(Rate(1, 2))  # a; not c, which is another wrong class
    assert found["other"] == str(Rate(3, 3))
    assert found["ten:target=1"] == str(Rate(2, 2))
    assert found["ten:target=9"] == str(Rate(2, 3))
    assert cells(run, denominator="all")["own"] == str(Rate(2, 3))
    assert cells(run, denominator="all")["ten:target=1"] == str(Rate(3, 3))
    (transfer,) = run.rows("select count(*) from transfer")[1]
    assert transfer == (2 + 3 + 2 + 3,)


def test_images_that_are_left_out_are_said(run: Run) -> None:
    (said,) = [note for note in crosstab(run, "attack", "model").notes if note.startswith("Targeted")]
    assert said.endswith(
        "do not count: other (one for each image), own (one for each image; 1 left out), "
        "ten:target=1 (class 1; 1 left out), ten:target=9 (class 9)."
    )
    own = findings.own_targets(run)
    assert [tuple(row) for row in own.itertuples(index=False)] == [("own", 1, 4), ("ten:target=1", 1, 4)]


def test_a_list_of_targets_has_a_mean_over_all_of_them(run: Run) -> None:
    """a counts for 9 alone and reaches it; b reaches both; c reaches 1 and not 9."""
    found = cells(run)
    assert list(found) == ["own", "other", "ten:target=1", "ten:target=9", "ten"]
    assert found["ten"] == str(Mean.over([1.0, 1.0, 0.5]))
    (note,) = [note for note in crosstab(run, "attack", "model").notes if note.startswith("ten: ")]
    assert "over all targets, the mean over images" in note
    assert cells(run, metric="accuracy")["ten"] == str(Mean.over([0.5, 0, 0.5, 0.5]))
    numbers = crosstab(run, "attack", "model").numbers.set_index("attack")
    assert numbers.loc["ten", "mean"] == pytest.approx(2.5 / 3) and numbers.loc["ten", "of"] == 3
    assert numbers.loc["own", "successes"] == 1


def test_the_name_of_a_list_stands_for_its_targets(run: Run) -> None:
    assert list(cells(run, wanted={"attack": ["ten", "own"]})) == ["ten:target=1", "ten:target=9", "ten", "own"]
    assert list(cells(run, wanted={"attack": ["ten:target=9"]})) == ["ten:target=9"]
    with pytest.raises(InputError, match="unknown attack 'twenty'"):
        cells(run, wanted={"attack": ["twenty"]})


def test_a_leaderboard_takes_the_name_of_a_list_too(run: Run, tmp_path: Path) -> None:
    """Also where another run has none of its targets."""
    other = made(tmp_path / "other", {"own": WANTED["own"]}, experiment={"attacks": {"own": {}}})
    for runs in ([run], [other, run]):
        sheet = leaderboard(runs, {"attack": ["ten"]}, allow_unlike=True)
        assert sheet.headings == ["model", "clean", "ten:target=1", "ten:target=9", "worst case"]
        assert len(sheet.cells) == 1
    with pytest.raises(InputError, match="unknown attack 'twenty'"):
        leaderboard([other, run], {"attack": ["ten", "twenty"]})


def test_a_worst_case_needs_the_same_target_of_each_image(run: Run) -> None:
    with pytest.raises(InputError, match="success: other and own have not the same target"):
        crosstab(run, "attack", "model", worst=True)
    assert findings.unlike_targets(run, ["own", "other"]) == {("other", "own")}
    assert cells(run, metric="accuracy", worst=True)["worst case"] == str(Rate(0, 4))


def test_attacks_are_compared_where_they_want_the_same(run: Run, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="have not the same target"):
        within(run, "attack", "success")
    twins = {"own": WANTED["own"], "other": WANTED["own"], "ten:target=9": WANTED["ten:target=9"]}
    named = {"attacks": {"own": {}, "other": {}, "ten": {"target": [9]}}}
    found = within(made(tmp_path / "twins", twins, experiment=named), "attack", "success")
    assert [(row.one, row.other, row.images) for row in found.rows.itertuples()] == [("own", "other", 2)]
    assert found.notes[-1] == "2 pairs of attacks that do not want the same classes are not compared."
    assert len(within(run, "attack", "accuracy").rows) == 6


def test_two_runs_are_compared_where_they_want_the_same(run: Run, tmp_path: Path) -> None:
    again = made(tmp_path / "again", {"own": WANTED["own"]})
    assert len(between(run, again, metric="success", wanted={"attack": ["own"]}).rows) == 1
    moved = made(tmp_path / "moved", {"own": {**WANTED["own"], "c": 5}})
    with pytest.raises(InputError, match=r"success: own wants other classes in .*targets.* than in .*moved"):
        between(run, moved, metric="success", wanted={"attack": ["own"]})
    assert len(between(run, moved, metric="accuracy", wanted={"attack": ["own"]}).rows) == 1
    with pytest.raises(InputError, match="unlike attacks of one name: own wants other classes"):
        leaderboard([again, moved])


def test_a_run_that_has_all_targets_of_a_list_is_finished(run: Run, tmp_path: Path) -> None:
    """And one that lacks those of a target says so."""
    lists = {"attacks": {"ten": {"target": [1, 9, 17]}}}
    lacking = made(tmp_path / "lacking", {name: WANTED[name] for name in WANTED if "ten" in name}, experiment=lists)
    with pytest.warns(UserWarning, match="attack=ten:target=17 model=m view=center defense=none among them"):
        lacking.rows("select 1")
