"""Verdicts over the repeats of a random defence, in findings, tables and comparisons, against a count by hand."""

from collections import Counter
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from typer.testing import CliRunner

from pipeline.main import app
from pipeline.results.comparisons import within
from pipeline.results.findings import measured, worst_case
from pipeline.results.outcomes import VERDICTS
from pipeline.results.tables import Run, open_run
from tests.support.made import answers, made_run
from tests.support.runs import Row
from transforms.data.verdicts import Verdict
from transforms.errors import InputError

NOISE, TARGET, IMAGES = "noise:sigma=0.03,repeats=5", 3, 60
Says = tuple[int, list[int]]
"""The class of the mean, and each repeat's."""


def drawn(seed: int) -> list[Says]:
    """Of five repeats each, from few classes, so that ties and unanimous ones come up; the label is 0."""
    rng = np.random.default_rng(seed)
    votes = [rng.choice([0, 1, TARGET], 5, p=rng.dirichlet([0.4] * 3)).tolist() for _ in range(IMAGES)]
    # A class that all repeats say has the largest mean; otherwise any class may.
    return [(each[0] if len(set(each)) == 1 else int(rng.choice([0, 1, 2, TARGET])), each) for each in votes]


SAID = {attack: drawn(seed) for seed, attack in enumerate(("none", "pgd", "aim"))}


def rows_of(attack: str, said: list[Says], **more: object) -> list[Row]:
    rows = answers([mean for mean, _ in said], attack=attack, defense=NOISE, **more)
    for row, (mean, votes) in zip(rows, said, strict=True):
        row["votes"], row["agreement"] = votes, votes.count(mean) / len(votes)
    return rows


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    rows = [row for attack, said in SAID.items() for row in rows_of(attack, said)]
    bare = [row for attack in SAID for row in answers([0] * IMAGES, attack=attack)]
    struck = [
        {"image_id": f"i{n}", "attack": attack, "target": target}
        for attack, target in (("pgd", None), ("aim", TARGET))
        for n in range(IMAGES)
    ]
    return open_run(str(made_run(tmp_path_factory.mktemp("verdicts"), [*bare, *rows], struck)))


def answer(says: Says, verdict: str) -> int:
    """By the mean or the majority: of equally many votes the lowest class."""
    mean, votes = says
    counted = Counter(votes)
    return mean if verdict == "mean" else min(counted, key=lambda each: (-counted[each], each))


def is_right(says: Says, verdict: str) -> bool:
    return set(says[1]) == {0} if verdict == "worst-of-n" else answer(says, verdict) == 0


def is_fooled(says: Says, verdict: str, attack: str) -> bool:
    if attack == "pgd":
        return not is_right(says, verdict)
    if verdict == "worst-of-n":
        return TARGET in (says[0], *says[1])
    return answer(says, verdict) == TARGET


def counts(run: Run, metric: str, verdict: Verdict) -> dict[str, int]:
    rows = measured(run, metric, "all", {"defense": [NOISE]}, verdict).rows
    assert set(rows["of"]) == {IMAGES}
    return {row.attack: row.successes for row in rows.itertuples()}


@pytest.mark.parametrize("verdict", get_args(Verdict))
def test_each_verdict_counts_what_a_count_by_hand_does(run: Run, verdict: Verdict) -> None:
    right = {attack: sum(is_right(each, verdict) for each in said) for attack, said in SAID.items()}
    fooled = {attack: sum(is_fooled(each, verdict, attack) for each in SAID[attack]) for attack in ("pgd", "aim")}
    assert counts(run, "accuracy", verdict) == right
    assert counts(run, "success", verdict) == fooled
    everywhere = sum(all(is_right(SAID[attack][n], verdict) for attack in SAID) for n in range(IMAGES))
    (row,) = worst_case(run, "accuracy", None, {"defense": [NOISE]}, verdict).rows.itertuples()
    assert (row.successes, row.of) == (everywhere, IMAGES)


def test_image_by_image_nothing_is_right_in_the_worst_repeat_that_is_wrong_otherwise(run: Run) -> None:
    query = """
    select count(*), count_if(worst_correct and not correct), count_if(worst_correct and not majority_correct),
           count_if(success and not worst_success), count_if(majority_success and not worst_success)
    from answers"""
    assert run.rows(query)[1] == [(6 * IMAGES, 0, 0, 0, 0)]


def test_without_repeats_all_verdicts_are_one(run: Run) -> None:
    query = """
    select count(*) from answers where defense = 'none' and majority = predicted and correct = majority_correct
    and correct = worst_correct and success is not distinct from majority_success
    and success is not distinct from worst_success"""
    assert run.rows(query)[1] == [(3 * IMAGES,)]


@pytest.mark.parametrize("verdict", get_args(Verdict))
def test_comparisons_and_commands_go_by_the_verdict(run: Run, verdict: Verdict) -> None:
    wanted = {"attack": ["pgd"], "defense": ["none", NOISE]}
    compared = within(run, "defense", "accuracy", wanted=wanted, verdict=verdict)
    right = sum(is_right(each, verdict) for each in SAID["pgd"])
    assert (compared.rows["other_mean"] * IMAGES).round().tolist() == [right]
    options = ["--metric", "accuracy", "--defense", NOISE, "--verdict", verdict, "--format", "markdown"]
    shown = CliRunner().invoke(app, ["table", run.store.root, *options])
    assert f"| pgd | {right}/{IMAGES} " in shown.output
    assert (VERDICTS[verdict] in shown.output) == (verdict != "mean")


def test_flips_name_the_class_that_the_majority_chose(run: Run) -> None:
    wanted = {"attack": ["pgd"], "defense": ["none", NOISE]}
    flips = within(run, "defense", "accuracy", wanted=wanted, verdict="majority").flips
    by_image = {f"i{n}": answer(each, "majority") for n, each in enumerate(SAID["pgd"])}
    names = dict(run.rows("select class_name, class from classes")[1])
    assert {row.image_id: names[row.answer_other] for row in flips.itertuples()} == {
        image: said for image, said in by_image.items() if said != 0
    }


@pytest.mark.parametrize("verdict", ["majority", "worst-of-n"])
def test_a_mean_has_no_verdict(run: Run, verdict: Verdict) -> None:
    with pytest.raises(InputError, match=f"margin is a mean over repeats; {verdict} is known of success and accuracy"):
        measured(run, "margin", verdict=verdict)


def test_rows_of_an_earlier_version_say_what_they_cannot_answer(tmp_path: Path) -> None:
    """Without votes, but with `agreement`: the mean and the worst repeat are known, and the majority is not."""
    rows = rows_of("none", SAID["none"])
    for row in rows:
        del row["votes"]
    old = open_run(str(made_run(tmp_path, [*answers([0] * IMAGES), *rows])))
    for verdict in ("mean", "worst-of-n"):
        found = sum(is_right(each, verdict) for each in SAID["none"])
        assert counts(old, "accuracy", verdict) == {"none": found}
    with pytest.raises(InputError, match=r"earlier version of Megalith made these rows, without votes.*noise"):
        measured(old, "accuracy", verdict="majority")
    bare = measured(old, "accuracy", cases={"defense": ["none"]}, verdict="majority").rows
    assert bare["successes"].tolist() == [IMAGES]
