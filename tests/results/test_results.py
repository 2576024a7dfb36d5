"""Reading a run: tables, SQL, and success rates against counts made by hand."""

import json
import math
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow.dataset as ds
import pytest

from pipeline.results import findings
from pipeline.results.remote_files import RemoteFiles
from pipeline.results.statistics import Rate
from pipeline.results.tables import Run, open_run
from tests.support.runs import EMPTY_RUN, TABLES, Finished, in_order, rows
from transforms.errors import InputError
from transforms.rows.parts import attacks_part, predictions_part
from transforms.rows.tables import TABLES as SCHEMAS
from transforms.rows.tables import rows_table
from transforms.storage.store import Store


def plain(value: Any) -> Any:
    """What pandas made of a cell, as Arrow has it."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return None
    return value.item() if isinstance(value, np.generic) else value


def as_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    columns = {name: [plain(value) for value in frame[name]] for name in frame.columns}
    return in_order([dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)])


# --- tables


@pytest.mark.parametrize("table", TABLES)
def test_a_table_is_what_its_files_hold(table: str, small_run: Finished) -> None:
    frame = getattr(open_run(str(small_run.output)), table)
    assert isinstance(frame, pd.DataFrame)
    assert list(frame.columns) == SCHEMAS[table].schema.names
    assert as_rows(frame) == rows(small_run.output, table)
    assert len(frame) == {"images": 7, "attacks": 21, "canvases": 28, "predictions": 168, "failures": 0}[table]


def test_a_run_that_lacks_predictions_is_read_with_a_warning(small_run: Finished, tmp_path: Path) -> None:
    """Whether it was killed, is still at work, or somebody took a file: rates would be of fewer images than it has."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_run(str(small_run.output)).rows("select 1")
    shutil.copytree(small_run.output, tmp_path / "run")
    gone = min((tmp_path / "run").glob("predictions/attack=both/model=*/view=*/defense=none/*.parquet"))
    gone.unlink()
    said = " ".join(gone.parent.relative_to(tmp_path / "run" / "predictions").parts)
    with pytest.warns(UserWarning, match=rf": 1 of 24 sets of predictions lack images, {said} among them; rates are"):
        open_run(str(tmp_path / "run")).success()
    shutil.rmtree(tmp_path / "run" / "predictions")
    with pytest.warns(UserWarning, match=r": 8 of 8 sets of predictions lack images, "):
        open_run(str(tmp_path / "run")).rows("select count(*) from predictions")


@pytest.mark.parametrize(
    ("query", "said"),
    [
        (
            'select * from predictions where attack = "fgsm"',
            r'(?s)column "fgsm" not found.*; a text has single quotes: \'fgsm\'$',
        ),
        ("select nothing from predictions", r'column "nothing" not found[^;]*$'),
        ("select avg(correct) from predictions", r"'avg\(BOOLEAN\)'; make a number of it, as in avg\(correct::int\)$"),
        ("drop table predictions", "^sql: give one query, which only reads: select"),
        ("select 1; select 2", "^sql: give one query, which only reads: select"),
    ],
)
def test_common_mistakes_in_sql_are_told_what_would_be_right(query: str, said: str, small_run: Finished) -> None:
    with pytest.raises(InputError, match=said):
        open_run(str(small_run.output)).rows(query)


def test_columns_and_filters(small_run: Finished) -> None:
    run = open_run(str(small_run.output))
    where = (ds.field("attack") == "both") & (ds.field("defense") == "lowpass:cutoff=0.7") & ~ds.field("correct")
    frame = run.read("predictions", columns=["image_id", "model", "confidence"], where=where)
    assert list(frame.columns) == ["image_id", "model", "confidence"]
    expected = [
        {key: row[key] for key in ("image_id", "model", "confidence")}
        for row in rows(small_run.output, "predictions")
        if row["attack"] == "both" and row["defense"] == "lowpass:cutoff=0.7" and not row["correct"]
    ]
    assert as_rows(frame) == in_order(expected)
    assert 0 < len(expected) < 14


def test_other_files_are_not_opened(small_run: Finished, tmp_path: Path) -> None:
    """The parts of other attacks are spoiled: whoever opens one fails."""
    output = small_run.copy(tmp_path / "run")
    spoiled = [
        path
        for path in (output / "predictions").rglob("*.parquet")
        if "attack=fgsm" not in path.relative_to(output).parts
    ]
    for path in spoiled:
        path.write_bytes(b"spoiled")
    assert spoiled
    run = open_run(str(output))
    frame = run.read("predictions", where=ds.field("attack") == "fgsm")
    assert as_rows(frame) == [row for row in rows(small_run.output, "predictions") if row["attack"] == "fgsm"]
    assert int(run.sql("select count(*) as n from predictions where attack = 'fgsm'").loc[0, "n"]) == len(frame)
    with pytest.raises(Exception, match="chunk-0"):
        run.read("predictions")


def test_the_record_is_run_json(small_run: Finished) -> None:
    assert open_run(str(small_run.output)).record.model_dump(mode="json") == json.loads(
        (small_run.output / "run.json").read_text()
    )


def test_unknown_tables(small_run: Finished) -> None:
    run = open_run(str(small_run.output))
    with pytest.raises(AttributeError):
        _ = run.prediction
    with pytest.raises(InputError, match="did you mean 'predictions'"):
        run.read("prediction")


def test_no_run_directory(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"run\.json"):
        open_run(str(tmp_path))


def test_sql_joins_the_tables(small_run: Finished) -> None:
    answer = open_run(str(small_run.output)).sql(
        "select label_name, count(*) as n from images join predictions using (image_id) group by all order by all"
    )
    names = sorted(row["label_name"] for row in rows(small_run.output, "images"))
    assert answer["label_name"].tolist() == names
    assert set(answer["n"]) == {4 * 2 * 3}


def test_other_readers_find_the_partitions(small_run: Finished) -> None:
    """The folders are Hive's: any reader of Parquet gets the defence's name back as it was written."""
    names = {row["defense"] for row in rows(small_run.output, "predictions")}
    assert names == {"none", "lowpass:cutoff=0.7", "jpeg:quality=75"}
    expected = rows(small_run.output, "predictions")
    frame = pd.read_parquet(small_run.output / "predictions")
    assert set(frame["defense"].astype(str)) == names
    assert len(frame) == len(expected)
    with duckdb.connect() as connection:
        files = f"{small_run.output}/predictions/**/*.parquet"
        answer = connection.execute(
            "select attack, model, view, defense, count(*) from read_parquet(?, hive_partitioning = true) group by all",
            [files],
        ).fetchall()
    assert {row[3] for row in answer} == names
    assert {row[0] for row in answer} == {"none", "fgsm", "both", "pgd-l2"}
    assert {row[4] for row in answer} == {7}


def test_a_run_directory_can_be_moved(small_run: Finished, tmp_path: Path) -> None:
    moved = tmp_path / "[x] y's=1 #%20"
    run = open_run(str(small_run.copy(moved)))
    assert as_rows(run.predictions) == rows(small_run.output, "predictions")
    assert len(run.sql("select * from attacks")) == 21


# --- success, on tables made by hand


@dataclass(frozen=True)
class Look:
    """What a model answered for one image: clean, and after each attack."""

    label: int
    clean: int
    after: dict[str, int]


TARGET = 649
SUCCESS_ON_SURROGATE = {
    # image: untargeted, targeted
    "i1": (True, True),
    "i2": (True, False),
    "i3": (False, True),
    "i4": (True, True),
    "i5": (False, True),
}
LOOKS = {
    "i1": Look(1, clean=1, after={"any": 7, "aim": TARGET}),  # both succeed
    "i2": Look(2, clean=2, after={"any": 2, "aim": 9}),  # both fail; the targeted one's answer is wrong, but not it
    "i3": Look(3, clean=8, after={"any": 8, "aim": TARGET}),  # wrong when clean already
    "i4": Look(4, clean=4, after={"any": 9, "aim": 4}),  # only the untargeted one
    "i5": Look(TARGET, clean=TARGET, after={"any": 5, "aim": TARGET}),  # of the target class: does not count for aim
}


def prediction(image_id: str, label: int, predicted: int, target: int | None) -> dict[str, Any]:
    return {
        "image_id": image_id,
        "label": label,
        "predicted": predicted,
        "predicted_name": str(predicted),
        "confidence": 0.5,
        "label_confidence": 0.25,
        "target": target,
        "target_confidence": None if target is None else 0.125,
        "margin": -1.0,
        "correct": predicted == label,
        "top5_labels": [predicted],
        "top5_confidences": [0.5],
        "probabilities": None,
    }


def attack_row(image_id: str, label: int, target: int | None, success: bool) -> dict[str, Any]:
    return {
        "image_id": image_id,
        "recipe": "pgd",
        "surrogates": ["s"],
        "view": "center",
        "through": "none",
        "objective": "cross-entropy",
        "label": label,
        "target": target,
        "norm": "linf",
        "eps": 4 / 255,
        "steps": 1,
        "seed": 0,
        "clean_predicted": label,
        "clean_confidence": 0.5,
        "adversarial_predicted": 0,
        "adversarial_confidence": 0.5,
        "success": success,
        "linf": 4 / 255,
        "l2": 1.0,
        "l1": 1.0,
        "l0": 1,
        "psnr": 40.0,
        "ssim": 1.0,
        "forwards": 1,
        "backwards": 1,
        "canvas_sha256": "",
    }


def describe(folder: Path, *attacks: str) -> Store:
    """A run of six images in two chunks, and of one model; with these attacks."""
    definitions = {
        **EMPTY_RUN["definitions"],
        "images": {"count": 6, "sha256": ""},
        "models": {"m": {"source": "", "weights_sha256": ""}},
        "attacks": {attack: {} for attack in attacks},
    }
    (folder / "run.json").write_text(json.dumps({**EMPTY_RUN, "definitions": definitions}))
    return Store(str(folder))


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two attacks on model `m` seen without and with a defence that undoes nothing but `i1`'s untargeted attack."""
    folder = tmp_path_factory.mktemp("by-hand")
    store = describe(folder, "any", "aim")
    names = list(LOOKS)
    for chunk, members in enumerate((names[:3], names[3:])):
        for attack, place, target in (("any", 0, None), ("aim", 1, TARGET)):
            made = [attack_row(name, LOOKS[name].label, target, SUCCESS_ON_SURROGATE[name][place]) for name in members]
            store.publish(attacks_part(chunk, attack), rows_table("attacks", made))
        for defense in ("none", "lowpass:cutoff=0.5"):
            clean = [prediction(name, LOOKS[name].label, LOOKS[name].clean, None) for name in members]
            if defense != "none":  # spoils every clean image: only the undefended answer says who was right when clean
                clean = [prediction(name, LOOKS[name].label, 999, None) for name in members]
            store.publish(predictions_part(chunk, "none", "m", "center", defense), rows_table("predictions", clean))
            for attack, target in (("any", None), ("aim", TARGET)):
                answers = {name: LOOKS[name].after[attack] for name in members}
                if defense != "none" and attack == "any" and "i1" in answers:
                    answers["i1"] = LOOKS["i1"].label
                made = [prediction(name, LOOKS[name].label, answers[name], target) for name in members]
                store.publish(predictions_part(chunk, attack, "m", "center", defense), rows_table("predictions", made))
    return open_run(str(folder))


DEFENDED = "lowpass:cutoff=0.5"


@pytest.mark.parametrize(
    ("denominator", "expected"),
    [
        # any: i1 i3 i4 i5 are wrong afterwards. aim: i1 i3 reach it, of all but i5, which shows the target.
        (
            "all",
            {("any", "none"): (4, 5), ("any", DEFENDED): (3, 5), ("aim", "none"): (2, 4), ("aim", DEFENDED): (2, 4)},
        ),
        # i3 was wrong when clean.
        (
            "clean-correct",
            {("any", "none"): (3, 4), ("any", DEFENDED): (2, 4), ("aim", "none"): (1, 3), ("aim", DEFENDED): (1, 3)},
        ),
        # any: i1 i2 i4 were fooled on the surrogate. aim: i1 i3 i4 (i5 as well, but it shows the target).
        (
            "surrogate-fooled",
            {("any", "none"): (2, 3), ("any", DEFENDED): (1, 3), ("aim", "none"): (2, 3), ("aim", DEFENDED): (2, 3)},
        ),
    ],
)
def test_success_under_each_denominator(
    denominator: Any, expected: dict[tuple[str, str], tuple[int, int]], by_hand: Run
) -> None:
    frame = by_hand.success(denominator)
    found = {(row.attack, row.defense): (row.successes, row.of) for row in frame.itertuples()}
    assert found == expected
    assert set(frame["model"]) == {"m"} and set(frame["view"]) == {"center"}
    for row in frame.itertuples():
        assert row.rate == row.successes / row.of
        low, high = wilson(row.successes, row.of)
        assert (row.low, row.high) == (pytest.approx(low), pytest.approx(high))


def test_the_view_for_sql_has_the_usual_denominator(by_hand: Run) -> None:
    """Where `avg(success)` over `attacks` counts what an attack cannot fail at: images of the target class."""
    _, found = by_hand.rows(
        "select attack, defense, sum(success::int)::bigint, count(*), any_value(model), any_value(view), "
        "any_value(through) from transfer group by all order by all"
    )
    assert found == [
        ("aim", "lowpass:cutoff=0.5", 1, 3, "m", "center", "none"),
        ("aim", "none", 1, 3, "m", "center", "none"),
        ("any", "lowpass:cutoff=0.5", 2, 4, "m", "center", "none"),
        ("any", "none", 3, 4, "m", "center", "none"),
    ]
    _, ((success, of),) = by_hand.rows("select sum(success::int)::bigint, count(*) from attacks where attack = 'aim'")
    assert (success, of) == (4, 5)


def test_images_that_attacks_leave_alone_are_counted(tmp_path: Path) -> None:
    """Minimal-norm attacks return what the surrogate gets wrong already, and attacks that stop early do."""
    made = [attack_row(name, 3, None, success=True) for name in ("i1", "i2", "i3", "i4")]
    made[0] |= {"linf": 0.0, "clean_predicted": 8}  # wrong already, and left alone
    made[1] |= {"clean_predicted": 8}  # wrong already, and attacked
    made[2] |= {"linf": 0.0}  # right, and the attack found nothing
    store = describe(tmp_path, "any", "other")
    store.publish(attacks_part(0, "any"), rows_table("attacks", made))
    store.publish(attacks_part(0, "other"), rows_table("attacks", made[1:]))
    frame = findings.untouched(open_run(str(tmp_path)))
    assert list(frame.itertuples(index=False, name=None)) == [("any", 1, 4)]


def test_clean_correct_is_the_usual_denominator(by_hand: Run) -> None:
    pd.testing.assert_frame_equal(by_hand.success(), by_hand.success("clean-correct"))


def test_an_unknown_denominator_is_refused(by_hand: Run) -> None:
    with pytest.raises(InputError, match="did you mean 'clean-correct'"):
        by_hand.success("clean-corect")


def test_success_of_a_real_run_by_counting(small_run: Finished) -> None:
    predictions = rows(small_run.output, "predictions")
    right = {
        (row["image_id"], row["model"])
        for row in predictions
        if row["attack"] == row["defense"] == "none" and row["correct"]
    }
    frame = open_run(str(small_run.output)).success()
    assert len(frame) == 3 * 2 * 3
    for row in frame.itertuples():
        counted = [
            each["predicted"] == 649 if row.attack == "both" else not each["correct"]
            for each in predictions
            if (each["attack"], each["model"], each["defense"]) == (row.attack, row.model, row.defense)
            and (each["image_id"], each["model"]) in right
        ]
        assert (row.successes, row.of) == (sum(counted), len(counted))


def test_a_model_that_is_never_right_is_shown(tmp_path: Path) -> None:
    store = describe(tmp_path, "any")
    store.publish(attacks_part(0, "any"), rows_table("attacks", [attack_row("i3", 3, None, False)]))
    for attack in ("none", "any"):
        part = predictions_part(0, attack, "m", "center", "none")
        store.publish(part, rows_table("predictions", [prediction("i3", 3, 8, None)]))
    (row,) = open_run(str(tmp_path)).success().itertuples()
    assert (row.attack, row.model, row.successes, row.of, row.low, row.high) == ("any", "m", 0, 0, 0, 1)
    assert math.isnan(row.rate)


def test_a_damaged_part_is_said_in_one_line(small_run: Finished, tmp_path: Path) -> None:
    shutil.copytree(small_run.output, tmp_path / "run")
    part = next((tmp_path / "run" / "predictions").rglob("*.parquet"))
    part.write_bytes(part.read_bytes()[:-100])
    damaged = open_run(str(tmp_path / "run"))
    for reading in (lambda: damaged.predictions, lambda: damaged.sql("select avg(confidence) from predictions")):
        with pytest.raises(InputError, match=f"{part.name}.*running the experiment again makes it anew") as caught:
            reading()
        assert "\n" not in str(caught.value)


def test_each_run_has_files_of_its_own() -> None:
    """fsspec remembers filesystems by the text of their arguments, and a store's text is an address in memory."""
    store = Store("s3://bucket/here")
    assert RemoteFiles(store) is not RemoteFiles(store)


def test_success_of_a_run_without_attacks(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps(EMPTY_RUN))
    frame = open_run(str(tmp_path)).success()
    assert len(frame) == 0
    assert {"attack", "model", "view", "defense", "successes", "of", "rate", "low", "high"} <= set(frame.columns)


# --- rates


def wilson(successes: int, of: int) -> tuple[float, float]:
    """Wilson 1927, in closed form; 1.959964 is the 97.5 % point of the normal distribution."""
    z = 1.959963984540054
    share = successes / of
    middle = (share + z**2 / (2 * of)) / (1 + z**2 / of)
    half = z / (1 + z**2 / of) * math.sqrt(share * (1 - share) / of + z**2 / (4 * of**2))
    return middle - half, middle + half


@pytest.mark.parametrize(
    ("successes", "of"), [(0, 1), (1, 1), (0, 20), (18, 20), (20, 20), (7, 13), (499, 1000), (3, 50_000)]
)
def test_the_interval_is_wilsons(successes: int, of: int) -> None:
    rate = Rate(successes, of)
    low, high = wilson(successes, of)
    assert rate.low == pytest.approx(low, abs=1e-12)
    assert rate.high == pytest.approx(high, abs=1e-12)
    assert 0 <= rate.low <= successes / of <= rate.high <= 1


def test_nothing_was_counted() -> None:
    assert (Rate(0, 0).low, Rate(0, 0).high) == (0, 1)
    assert str(Rate(0, 0)) == "0/0"


def test_a_rate_is_shown_with_its_denominator_and_interval() -> None:
    # (0.74, 0.99): the interval of 17 of 18 by the formula above.
    low, high = wilson(17, 18)
    assert str(Rate(17, 18)) == f"17/18 94% [{low * 100:.0f}–{high * 100:.0f}]"


def test_an_abstention_is_no_success_of_a_targeted_attack(tmp_path: Path) -> None:
    """Behind smoothing the votes may point at the target, and yet be too few for an answer."""
    store, behind = describe(tmp_path, "bim"), "smoothing:sigma=0.25,samples=100,alpha=0.001"
    seen = {"label": 1, "predicted": 649, "predicted_name": "megalith", "confidence": 0.9, "label_confidence": 0.1}
    seen |= {"target": 649, "target_confidence": 0.9, "margin": -1.0, "correct": False, "top5_labels": [649]}
    seen |= {"top5_confidences": [0.9]}
    clean = {**seen, "target": None, "target_confidence": None, "predicted": 1, "correct": True}
    attack = dict.fromkeys(SCHEMAS["attacks"].columns.names, 0) | {
        "surrogates": ["m"],
        "through": "none",
        "success": True,
    }
    attack |= {"label": 1, "target": 649, "recipe": "bim", "view": "center", "norm": "linf", "canvas_sha256": ""}
    attack |= dict.fromkeys(("fuse", "objective", "victim", "bounds"))
    store.publish(attacks_part(0, "bim"), rows_table("attacks", [{**attack, "image_id": each} for each in "ab"]))
    store.publish(
        predictions_part(0, "none", "m", "center", "none"),
        rows_table("predictions", [{**clean, "image_id": each} for each in "ab"]),
    )
    votes = [{**seen, "image_id": "a", "abstained": True}, {**seen, "image_id": "b", "abstained": False}]
    store.publish(predictions_part(0, "bim", "m", "center", behind), rows_table("predictions", votes))
    (row,) = open_run(str(tmp_path)).success().itertuples()
    assert (row.defense, row.successes, row.of) == (behind, 1, 2)
