"""Leaderboards over runs made by hand."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.results import open_run
from pipeline.results.formats import Sheet
from pipeline.results.leaderboards import leaderboard
from pipeline.results.statistics import Rate
from pipeline.results.tables import Run
from tests.support.made import answers, made_run, two_models
from tests.support.runs import Json
from transforms.errors import InputError


def entry(folder: Path, model: str, attacked: dict[str, list[int]], attack: Json | None = None, **changes: Any) -> Run:
    """A run of four images of class 0, all right when clean, with what a model says of them under some attacks."""
    made = answers([0, 0, 0, 0], model=model)
    struck = []
    for name, classes in attacked.items():
        made += answers(classes, model=model, attack=name)
        struck += [{"image_id": f"i{n}", "attack": name, "surrogates": ["s"], **(attack or {})} for n in range(4)]
    return open_run(str(made_run(folder / f"{model}-{'-'.join(attacked)}", made, struck, **changes)))


def cells(sheet: Sheet) -> list[list[str]]:
    return [list(sheet.headings), *(list(row) for row in sheet.cells)]


def rates(*successes: int) -> list[str]:
    return [str(Rate(each, 4)) for each in successes]


def test_models_of_several_runs_ranked_by_their_worst_case(tmp_path: Path) -> None:
    weak = entry(tmp_path, "weak", {"x": [5, 5, 0, 0], "y": [0, 5, 5, 0]})
    firm = entry(tmp_path, "firm", {"x": [5, 0, 0, 0], "y": [5, 0, 0, 0]})
    sheet = leaderboard([weak, firm])
    assert cells(sheet) == [
        ["model", "clean", "x", "y", "worst case"],
        ["firm", *rates(4, 3, 3, 3)],
        ["weak", *rates(4, 2, 2, 1)],
    ]
    assert "; canvas 256/224; view center; undefended; budget linf 4/255" in sheet.title
    assert not any("Not comparable" in note for note in sheet.notes)


def test_attacks_that_follow_the_model_are_marked(tmp_path: Path) -> None:
    sheet = leaderboard([open_run(str(two_models(tmp_path)))])
    assert cells(sheet)[1:] == [
        ["n", *(str(Rate(each, 6)) for each in (4, 3, 2, 2))],
        ["m", str(Rate(4, 6)), *(f"{Rate(each, 6)} *" for each in (1, 2, 0))],
    ]


def test_a_model_of_two_runs_is_one_entry(tmp_path: Path) -> None:
    """Each run has another attack; the worst case of both together is in neither. The clean answers are in both."""
    one, other = entry(tmp_path, "m", {"x": [5, 0, 0, 0]}), entry(tmp_path, "m", {"y": [5, 5, 0, 0]})
    sheet = leaderboard([one, other])
    assert cells(sheet) == [["model", "clean", "x", "y", "worst case"], ["m", *rates(4, 3, 2), ""]]
    assert sorted(sheet.numbers["attack"]) == ["none", "x", "y"]


def test_namesakes_of_other_weights_are_told_apart(tmp_path: Path) -> None:
    one, other = entry(tmp_path, "m", {"x": [5, 0, 0, 0]}), entry(tmp_path / "b", "m", {"x": [5, 5, 0, 0]})
    models = {name: each.replace(weights_sha256="others") for name, each in other.record.definitions.models.items()}
    other.record = other.record.replace(definitions=other.record.definitions.replace(models=models))
    found = cells(leaderboard([one, other]))[1:]
    assert found == [
        [f"m ({one.store.root})", *rates(4, 3, 3)],
        [f"m ({other.store.root})", *rates(4, 2, 2)],
    ]


UNLIKE: dict[str, tuple[Json, Json, str]] = {
    "canvas": ({}, {"definitions": {"canvas": {"resize": 232, "crop": 224}}}, "canvas: 256/224 in .*, 232/224 in "),
    "budget": ({"eps": 8 / 255}, {}, "budget: linf 4/255 in .*, linf 8/255 in "),
    "norm": ({"norm": "l2", "eps": 3.0}, {}, "budget: linf 4/255 in .*, l2 3 in "),
    "steps": ({"steps": 50}, {}, "attacks of one name: attacks.x.steps is 10 in .*, 50 in "),
    "images": (
        {},
        {"images": [{"image_id": "i0", "label": 0, "bytes_sha256": "other"}]},
        r"images: 4 \(\w{8}\) in .*, 4 \(",
    ),
    "labels": ({}, {"images": [{"image_id": "i0", "label": 5}]}, r"images: 4 \(\w{8}\) in .*, 4 \("),
}


@pytest.mark.parametrize("what", UNLIKE)
def test_unlike_protocols_are_refused_or_said(what: str, tmp_path: Path) -> None:
    attack, changes, said = UNLIKE[what]
    one = entry(tmp_path, "a", {"x": [5, 0, 0, 0]})
    other = entry(tmp_path, "b", {"x": [0, 0, 0, 0]}, attack, **changes)
    with pytest.raises(InputError, match=f"leaderboard: unlike {said}.*or give --allow-unlike"):
        leaderboard([one, other])
    sheet = leaderboard([one, other], allow_unlike=True)
    assert any(note.startswith(f"Not comparable: unlike {said.partition(':')[0]}") for note in sheet.notes)
    assert sorted(row[0] for row in sheet.cells) == ["a", "b"]


def test_attacks_of_unlike_budgets_in_one_run_are_refused(tmp_path: Path) -> None:
    made = [*answers([0, 0]), *answers([0, 5], attack="x"), *answers([5, 5], attack="y")]
    struck = [
        {"image_id": f"i{n}", "attack": name, "eps": eps}
        for n in range(2)
        for name, eps in (("x", 4 / 255), ("y", 8 / 255))
    ]
    run = open_run(str(made_run(tmp_path, made, struck)))
    with pytest.raises(InputError, match=r"unlike budgets: linf 4/255, linf 8/255 in .*choose with --attack"):
        leaderboard([run])
    assert cells(leaderboard([run], {"attack": ["y"]}))[0] == ["model", "clean", "y", "worst case"]


def test_a_run_without_what_is_asked_for_is_left_out_aloud(tmp_path: Path) -> None:
    one, other = entry(tmp_path, "a", {"x": [5, 0, 0, 0]}), entry(tmp_path, "b", {"y": [5, 0, 0, 0]})
    sheet = leaderboard([one, other], {"attack": ["x"]})
    assert [row[0] for row in sheet.cells] == ["a"]
    assert sheet.notes[-1] == f"Left out, having nothing of what is asked for: {other.store.root}."
    with pytest.raises(InputError, match="unknown attack 'z'; known: none, x, y"):
        leaderboard([one, other], {"attack": ["z"]})
    with pytest.raises(InputError, match="no run has all that is asked for"):
        leaderboard([one, other], {"attack": ["x"], "model": ["b"]})


def test_what_was_published_of_robust_models_stands_beside_ours(tmp_path: Path) -> None:
    """Of 20 images all are right when clean, and none under AutoAttack: Wilson's bound is 0.16."""
    how = {"recipe": "autoattack", "eps": 4 / 255, "surrogates": ["m"]}
    struck = [{"image_id": f"i{n}", "attack": "sure", **how} for n in range(20)]
    made = made_run(tmp_path / "run", [*answers([0] * 20), *answers([1] * 20, attack="sure")], struck)
    run = open_run(str(made))
    assert not any("Published" in note for note in leaderboard([run]).notes)
    run.record = run.record.replace(published={"m": 0.7, "n": 0.6}, published_robust={"m": 0.27})
    said = "27.0% under AutoAttack at 4/255 (L∞), which ours is far below"
    assert f"Published of m: 70.0% clean; {said}." in leaderboard([run]).notes
    run.record = run.record.replace(published_robust={"m": 0.26})
    assert "Published of m: 70.0% clean; 26.0% under AutoAttack at 4/255 (L∞)." in leaderboard([run]).notes
