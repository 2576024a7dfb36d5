"""The questions in docs/tables.md, answered by SQL there and by counting here."""

import re
from collections import defaultdict
from pathlib import Path

import pytest
from PIL import Image

from pipeline.results.tables import open_run
from tests.support.runs import ROOT, Finished, rows

pytestmark = [pytest.mark.system, pytest.mark.alone]

MODELS = ("lite0", "lite1", "lite2")


def written(language: str) -> list[str]:
    text = (ROOT / "docs" / "tables.md").read_text().partition("\n## Questions\n")[2]
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.S | re.M)


def test_the_answers_are_those_of_counting(quickstart_run: Finished) -> None:
    right = defaultdict[tuple[str, str, str], dict[str, bool]](dict)  # by attack, model and defence: of each image
    names = {}
    for row in rows(quickstart_run.output, "predictions"):
        right[row["attack"], row["model"], row["defense"]][row["image_id"]] = row["correct"]
        names[row["attack"], row["model"], row["defense"], row["image_id"]] = row["predicted_name"]
    images = sorted({image for _, _, _, image in names})
    attacks = {attack for attack, _, _, _ in names}

    def alone(one: str, other: str, model: str) -> int:
        fooled, stood = right[one, model, "none"], right[other, model, "none"]
        return sum(stood[image] and not fooled[image] for image in images)

    targeted = {row["attack"]: row["target"] for row in rows(quickstart_run.output, "attacks")}
    labels = {row["image_id"]: row["label"] for row in rows(quickstart_run.output, "images")}
    predicted = {
        (row["attack"], row["model"], row["image_id"]): row["predicted"]
        for row in rows(quickstart_run.output, "predictions")
        if row["defense"] == "none"
    }
    transfer = []
    for attack in sorted(targeted):
        for model in MODELS:
            target = targeted[attack]
            counted = [i for i in images if right["none", model, "none"][i] and labels[i] != target]
            found = [predicted[attack, model, i] for i in counted]
            fooled = [
                answer != labels[i] if target is None else answer == target
                for i, answer in zip(counted, found, strict=True)
            ]
            transfer.append((attack, model, sum(fooled), len(counted)))

    here, there = right["mi-fgsm", "lite0", "none"], right["mi-fgsm", "lite1", "none"]
    both = [(i, names["mi-fgsm", "lite1", "none", i]) for i in images if not here[i] and not there[i]]
    held = [
        (model, sum(all(right[attack, model, "none"][i] for attack in attacks) for i in images), len(images))
        for model in MODELS
    ]
    defended = [
        (d, sum(right["none", "lite0", d].values()), sum(right["megalith", "lite0", d].values()))
        for d in {defense for _, _, defense, _ in names}
    ]
    defended.sort(key=lambda row: (-row[2], row[0]))
    pairs = [(model, alone("pgd", "mi-fgsm", model), alone("mi-fgsm", "pgd", model)) for model in MODELS]

    run = open_run(str(quickstart_run.output))
    answers = [list(run.sql(query).itertuples(index=False, name=None)) for query in written("sql")]
    assert answers == [transfer, both, held, defended, pairs]
    assert all(answers)


def test_pictures_are_written(quickstart_run: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "quickstart").symlink_to(quickstart_run.output)
    (code,) = written("python")
    exec(code, {})  # noqa: S102
    pictures = list(tmp_path.glob("*.png"))
    assert len(pictures) == 20
    for picture in pictures:
        with Image.open(picture) as opened:
            assert (opened.format, opened.mode, opened.size) == ("PNG", "RGB", (224, 224))
