"""docs/queries.md: its queries answered by SQL there and by counting here, and its other readers run."""

import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable
from math import floor
from pathlib import Path
from random import Random
from typing import Any

import pytest
from PIL import Image

from pipeline.results.tables import open_run, statements
from tests.support.made import made_run
from tests.support.runs import ROOT, Finished, Row, rows

PAGE = (ROOT / "docs" / "queries.md").read_text()
QUESTIONS = dict(re.findall(r"^### (\d+\. .*)\n(?:.*\n)*?```sql\n((?:.*\n)*?)```$", PAGE, flags=re.M))
READERS = dict(
    re.findall(
        r"^### (.+)\n(?:.*\n)*?```python\n((?:.*\n)*?)```$",
        PAGE.partition("\n## Other readers\n")[2].partition("\n## ")[0],
        flags=re.M,
    )
)

TARGET, MODELS = 649, ("lite0", "lite1", "lite2")
ATTACKS = {"fgsm": None, "pgd": None, "mi-fgsm": None, "megalith": TARGET}
DEFENSES = ("none", *(f"lowpass:cutoff={each / 10}" for each in (10, 9, 8, 7, 6)), "blur:sigma=1.0", "jpeg:quality=75")
LABELS = {f"i{n:02}": label for n, label in enumerate([145, 207, 281, TARGET, 145] * 4)}


def predictions(random: Random) -> list[Row]:
    """Of the quickstart's models behind its defences: right half the time, the target or something else otherwise."""
    found = []
    for attack, target in {"none": None, **ATTACKS}.items():
        for model in MODELS:
            for defense in DEFENSES:
                for image, label in LABELS.items():
                    top = random.sample(
                        [label, TARGET, 1, 2, 3, 4, 5] if label != TARGET else [label, 1, 2, 3, 4, 5], 5
                    )
                    if random.random() < 0.4:
                        top = [label, *(each for each in [*top, 6] if each != label)][:5]
                    found.append(
                        {
                            **{"image_id": image, "attack": attack, "model": model, "defense": defense},
                            **{"predicted": top[0], "top5_labels": top, "top5_confidences": [0.2] * 5},
                            **{"confidence": random.randrange(1, 32) / 32, "margin": random.randrange(-64, 64) / 8},
                            "target_confidence": None if target is None else random.randrange(32) / 32,
                        }
                    )
    return found


def attacks(random: Random) -> list[Row]:
    return [
        {
            **{"image_id": image, "attack": attack, "target": target, "surrogates": ["lite0"]},
            **{
                "success": random.random() < 0.7,
                "linf": random.choice([0, 1, 4]) / 255,
                "l2": random.randrange(64) / 8,
            },
            **{"clean_predicted": random.choice([label, 1]), "l0": random.randrange(1000), "ssim": random.random()},
            **{"forwards": random.randrange(1, 20), "backwards": random.randrange(20)},
        }
        for attack, target in ATTACKS.items()
        for image, label in LABELS.items()
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where `runs/quickstart` has the quickstart's names, and answers drawn at random."""
    random, folder = Random(18), tmp_path_factory.mktemp("queries")  # noqa: S311
    labelled = [{"image_id": image, "label": label} for image, label in LABELS.items()]
    failures = [
        {"image_id": f"i{n:02}", "stage": stage, "attack": attack, "message": message}
        for n, (stage, attack, message) in enumerate(
            [("load", "none", "it's no JPEG")] * 2 + [("attack", "pgd", "gradient is not finite")] * 3
        )
    ]
    output = folder / "runs" / "quickstart"
    output.mkdir(parents=True)
    made_run(output, predictions(random), attacks(random), labelled, failures=failures)
    return folder


class Counted:
    """The tables of a run, counted in plain Python."""

    def __init__(self, output: Path) -> None:
        self.attacks = rows(output, "attacks")
        self.failures = rows(output, "failures")
        self.all = rows(output, "predictions")
        self.names = {row["image_id"]: row["label_name"] for row in rows(output, "images")}
        self.seen = {(r["attack"], r["model"], r["defense"], r["image_id"]): r for r in self.all}
        self.plain = [row for row in self.all if row["defense"] == "none"]

    def clean(self, row: Row) -> bool:
        right: bool = self.seen["none", row["model"], "none", row["image_id"]]["correct"]
        return right

    def right(self, attack: str, model: str, defense: str, image: str) -> bool:
        right: bool = self.seen[attack, model, defense, image]["correct"]
        return right

    def transfer(self) -> list[tuple[Row, bool]]:
        """The undefended rows that count, and whether the attack succeeds."""
        return [
            (row, row["predicted"] == row["target"] if row["target"] is not None else row["predicted"] != row["label"])
            for row in self.plain
            if row["attack"] != "none" and row["label"] != row["target"] and self.clean(row)
        ]


Answer = list[tuple[Any, ...]]
Groups = dict[tuple[Any, ...], list[Any]]


def grouped(pairs: list[tuple[tuple[Any, ...], Any]]) -> Groups:
    groups: Groups = defaultdict(list)
    for key, value in pairs:
        groups[key].append(value)
    return dict(sorted(groups.items()))


def rate(values: list[bool]) -> float:
    return round(sum(values) / len(values), 3)


def rows_there(run: Counted) -> Answer:
    images, pairs = len(LABELS), len(MODELS) * len(DEFENSES)
    return [(each, images, len(MODELS), len(DEFENSES), images * pairs) for each in sorted({"none", *ATTACKS})]


def clean_accuracy(run: Counted) -> Answer:
    right = {model: [run.right("none", model, "none", image) for image in LABELS] for model in MODELS}
    return [(model, sum(each), len(each), rate(each)) for model, each in right.items()]


def transfer_counts(run: Counted) -> Answer:
    groups = grouped([((row["attack"], row["model"]), success) for row, success in run.transfer()])
    return [(*key, sum(each), len(each)) for key, each in groups.items()]


def transfer_matrix(run: Counted) -> Answer:
    groups = grouped([((row["attack"], row["model"]), success) for row, success in run.transfer()])
    return [(attack, *(rate(groups[attack, model]) for model in MODELS)) for attack in sorted(ATTACKS)]


def white_and_black(run: Counted) -> Answer:
    groups = grouped([((row["attack"], row["model"] == "lite0"), success) for row, success in run.transfer()])
    return [(attack, rate(groups[attack, True]), rate(groups[attack, False])) for attack in sorted(ATTACKS)]


def fool_both(run: Counted) -> Answer:
    wrong = [i for i in LABELS if not any(run.right("mi-fgsm", model, "none", i) for model in ("lite0", "lite1"))]
    return [(i, run.seen["mi-fgsm", "lite1", "none", i]["predicted_name"]) for i in wrong]


def easily_fooled(run: Counted) -> Answer:
    groups = grouped([((row["image_id"], run.names[row["image_id"]]), success) for row, success in run.transfer()])
    found = [(*key, sum(each), len(each)) for key, each in groups.items()]
    return sorted(found, key=lambda row: (-row[2] / row[3], row[0]))


def mistaken_for(run: Counted) -> Answer:
    wrong = [row for row in run.plain if row["attack"] == "pgd" and not row["correct"]]
    counts = Counter((run.names[row["image_id"]], row["predicted_name"]) for row in wrong)
    return sorted(((*key, count) for key, count in counts.items()), key=lambda row: (-row[2], row[0], row[1]))[:10]


def robust(run: Counted) -> Answer:
    held = {m: sum(all(run.right(a, m, "none", i) for a in ("none", *ATTACKS)) for i in LABELS) for m in MODELS}
    return [(model, each, len(LABELS)) for model, each in held.items()]


def better_or_chance(run: Counted) -> Answer:
    def alone(one: str, other: str, model: str) -> int:
        return sum(run.right(other, model, "none", i) and not run.right(one, model, "none", i) for i in LABELS)

    return [(model, alone("pgd", "mi-fgsm", model), alone("mi-fgsm", "pgd", model)) for model in MODELS]


def in_five(run: Counted) -> Answer:
    groups = grouped(
        [
            ((r["attack"], r["model"]), (r["top5_labels"][0] == r["label"], r["label"] in r["top5_labels"]))
            for r in run.plain
        ]
    )
    return [(*key, sum(a for a, _ in each), sum(b for _, b in each), len(each)) for key, each in groups.items()]


def calibration(run: Counted) -> Answer:
    clean = [row for row in run.plain if row["attack"] == "none"]
    groups = grouped([((r["model"], int(r["confidence"] * 5) / 5), (r["confidence"], r["correct"])) for r in clean])
    return [
        (*key, len(each), round(sum(c for c, _ in each) / len(each), 3), rate([right for _, right in each]))
        for key, each in groups.items()
    ]


def margin_falls(run: Counted) -> Answer:
    falls = grouped(
        [
            ((r["attack"], r["model"]), run.seen["none", r["model"], "none", r["image_id"]]["margin"] - r["margin"])
            for r in run.plain
            if r["attack"] != "none"
        ]
    )
    return [(*key, round(statistics.median(each), 3)) for key, each in falls.items()]


def how_close(run: Counted) -> Answer:
    aimed = [row for row in run.plain if row["attack"] == "megalith" and row["label"] != TARGET]
    places = [(r["model"], r["top5_labels"].index(TARGET) + 1 if TARGET in r["top5_labels"] else 99) for r in aimed]
    groups = grouped([(key, r["target_confidence"]) for key, r in zip(places, aimed, strict=True)])
    return [
        (model, None if place == 99 else place, len(each), round(sum(each) / len(each), 3))
        for (model, place), each in groups.items()
    ]


def sizes(run: Counted) -> Answer:
    groups = grouped([((row["attack"], row["norm"]), row) for row in run.attacks])

    def column(each: list[Row], name: str) -> list[float]:
        return [row[name] for row in each]

    return [
        (
            *key,
            round(max(column(each, "linf")) * 255, 1),
            round(statistics.mean(column(each, "l2")), 3),
            floor(statistics.mean(column(each, "l0")) + 0.5),
            round(min(column(each, "ssim")), 4),
        )
        for key, each in groups.items()
    ]


def costs(run: Counted) -> Answer:
    groups = grouped([((row["attack"],), (row["forwards"] + row["backwards"], row["success"])) for row in run.attacks])
    sums = [(*key, sum(a for a, _ in each), sum(b for _, b in each)) for key, each in groups.items()]
    return [
        (attack, passes, successes, floor(10 * passes / successes + 0.5) / 10) for attack, passes, successes in sums
    ]


def untouched(run: Counted) -> Answer:
    groups = grouped([((r["attack"],), r["clean_predicted"] != r["label"]) for r in run.attacks if r["linf"] == 0])
    return [(*key, len(each), sum(each)) for key, each in groups.items()]


def restored(run: Counted) -> Answer:
    def right(attack: str, defense: str) -> int:
        return sum(run.right(attack, "lite0", defense, i) for i in LABELS)

    return sorted(((d, right("none", d), right("megalith", d)) for d in DEFENSES), key=lambda row: (-row[2], row[0]))


def cutoffs(run: Counted) -> Answer:
    behind = [r for r in run.all if r["model"] == "lite0" and r["defense"].startswith("lowpass")]
    groups = grouped([((float(r["defense"].rpartition("=")[2]), r["attack"]), r["correct"]) for r in behind])
    return [(*key, rate(each)) for key, each in groups.items()]


def failed(run: Counted) -> Answer:
    assert len(run.failures) == 5
    return [
        ("attack", "pgd", "ValueError", "gradient is not finite", 3),
        ("load", "none", "ValueError", "it's no JPEG", 2),
    ]


COUNTED: list[Callable[[Counted], Answer]] = [
    *(rows_there, clean_accuracy, transfer_counts, transfer_matrix, white_and_black, fool_both, easily_fooled),
    *(mistaken_for, robust, better_or_chance, in_five, calibration, margin_falls, how_close, sizes, costs, untouched),
    *(restored, cutoffs, failed),
]


def test_there_are_twenty_questions() -> None:
    assert [int(question.partition(".")[0]) for question in QUESTIONS] == [*range(1, 21)]
    assert PAGE.count("```sql\n") == len(COUNTED) == 20


@pytest.mark.parametrize(("question", "count"), [*zip(QUESTIONS, COUNTED, strict=False)])
def test_the_answer_is_that_of_counting(question: str, count: Callable[[Counted], Answer], folder: Path) -> None:
    output = folder / "runs" / "quickstart"
    headings, found = open_run(str(output)).rows(QUESTIONS[question])
    wanted = count(Counted(output))
    assert len(wanted) > 1
    assert [len(row) for row in wanted] == [len(headings)] * len(found)
    for row, expected in zip(found, wanted, strict=True):
        assert row == tuple(pytest.approx(each, abs=1.5e-3) if isinstance(each, float) else each for each in expected)


def test_what_the_page_types_is_a_command(folder: Path) -> None:
    run = open_run(str(folder / "runs" / "quickstart"))
    typed = re.findall(r'^megalith sql runs/quickstart "(.+?)"', PAGE, flags=re.M)
    assert len(typed) == 2
    assert all(run.rows(each)[1] for text in typed for each in statements(text))


def plain_pairs(accuracy: Any) -> dict[str, float]:
    """What each library calls a table of models and numbers."""
    if hasattr(accuracy, "fetchall"):
        return dict(accuracy.fetchall())
    if hasattr(accuracy, "to_pylist"):
        return {row["model"]: row["correct_mean"] for row in accuracy.to_pylist()}
    return dict(accuracy.rows()) if hasattr(accuracy, "rows") else accuracy.to_dict()


@pytest.mark.parametrize("reader", READERS)
def test_other_libraries_read_the_same(reader: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    code = READERS[reader]
    assert len(code.splitlines()) <= 7
    known: dict[str, Any] = {}
    exec(code, known)  # noqa: S102
    run = Counted(folder / "runs" / "quickstart")
    wanted = {model: rate([run.right("pgd", model, "none", i) for i in LABELS]) for model in MODELS}
    assert plain_pairs(known["accuracy"]) == pytest.approx(wanted, abs=1e-3)


def test_each_library_is_there() -> None:
    assert [*READERS] == ["pandas", "Polars", "Arrow", "DuckDB", "Hugging Face's `datasets`"]


@pytest.mark.system
@pytest.mark.alone
def test_the_quickstart_has_answers_to_all(quickstart_run: Finished) -> None:
    """But for failures, of which it has none."""
    run = open_run(str(quickstart_run.output))
    empty = [question for question, query in QUESTIONS.items() if not run.rows(query)[1]]
    assert [each for each in empty if "could not be done" not in each and "as they were" not in each] == []


@pytest.mark.system
@pytest.mark.alone
def test_pictures_are_written(quickstart_run: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "quickstart").symlink_to(quickstart_run.output)
    code = PAGE.partition("`canvas` is a PNG file:\n```python\n")[2].partition("```")[0]
    exec(code, {})  # noqa: S102
    pictures = list(tmp_path.glob("*.png"))
    assert len(pictures) == 20
    for picture in pictures:
        with Image.open(picture) as opened:
            assert (opened.format, opened.mode, opened.size) == ("PNG", "RGB", (224, 224))
