"""What `make run` runs, to its end."""

import json

import pytest

from tests.support.runs import Finished, rows

pytestmark = [pytest.mark.system, pytest.mark.alone]

IMAGES, ATTACKS, MODELS, VIEWS, DEFENSES = 20, 4, 3, 1, 7


def test_rows_are_counted_out_exactly(quickstart_run: Finished) -> None:
    output = quickstart_run.output
    assert len(rows(output, "predictions")) == IMAGES * (1 + ATTACKS) * MODELS * VIEWS * (1 + DEFENSES)
    assert len(rows(output, "attacks")) == IMAGES * ATTACKS
    assert len(rows(output, "canvases")) == IMAGES * (1 + ATTACKS)
    assert len(rows(output, "images")) == IMAGES
    assert rows(output, "failures") == []


def test_clean_accuracy(quickstart_run: Finished) -> None:
    """Measured independently with resize 256 and crop 224: 18, 19 and 18 of 20.

    Lite1 is one image below that: its native 240 enlarges a canvas of 224.
    """
    output, summary = quickstart_run.output, quickstart_run.summary
    clean = [row for row in rows(output, "predictions") if row["attack"] == row["defense"] == "none"]
    for model in ("lite0", "lite1", "lite2"):
        right = [row["correct"] for row in clean if row["model"] == model]
        assert (sum(right), len(right)) == (18, 20)
        assert f"{model}: 18 of 20 clean images right" in summary


def test_the_white_box_falls_and_the_others_mostly_stand(quickstart_run: Finished) -> None:
    """What the literature leads one to expect of 4/255 on an undefended network, and of transfer from a single one."""
    output = quickstart_run.output
    seen = [row for row in rows(output, "predictions") if row["defense"] == "none"]
    right = {
        (attack, model): sum(row["correct"] for row in seen if (row["attack"], row["model"]) == (attack, model))
        for attack in ("none", "fgsm", "pgd", "mi-fgsm", "megalith")
        for model in ("lite0", "lite1", "lite2")
    }
    for attack in ("pgd", "mi-fgsm"):
        assert right[attack, "lite0"] == 0
        for model in ("lite1", "lite2"):
            assert 0 < right[attack, model] < right["none", model]
    reached = [row["predicted"] for row in seen if (row["attack"], row["model"]) == ("megalith", "lite0")]
    assert reached.count(649) >= 18


def test_keeping_every_frequency_changes_nothing(quickstart_run: Finished) -> None:
    output = quickstart_run.output
    found = rows(output, "predictions")
    plain, kept = (
        [{key: value for key, value in row.items() if key != "defense"} for row in found if row["defense"] == defense]
        for defense in ("none", "lowpass:cutoff=1.0")
    )
    assert plain == kept


def test_the_summary_is_worth_reading(quickstart_run: Finished) -> None:
    output, summary = quickstart_run.output, quickstart_run.summary
    for words in (
        "Clean accuracy",
        "18/20",
        "Attack success",
        "Defences",
        "jpeg:quality=75",
        str(output),
        " sql ",
        f" report {output}",
    ):
        assert words in summary
    said = json.loads((output / "run.json").read_text())
    assert said["experiment"]["name"] == "quickstart"
