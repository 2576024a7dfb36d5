"""Candidates: the victim is asked no more often than it may be, and what is kept is what it says."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from tests.support.attacks import Counted, Table, Watched, as_is, batch_of, bent, some_canvases, surrogates
from tests.support.runs import invoke, refused, rows, run, tiny, written
from transforms.attacks.balls import LinfBall
from transforms.attacks.drivers.candidates import Candidates
from transforms.attacks.engine import attack_batch
from transforms.attacks.protocol import BaseAttack, Batch, Found
from transforms.attacks.recipes.names import recipe
from transforms.attacks.spec import AttackSpec
from transforms.attacks.surrogates import Surrogates
from transforms.data.outcomes import Attacked
from transforms.data.pixels import CanvasBatch
from transforms.defenses.defense import NO_DEFENSE
from transforms.errors import InputError
from transforms.models.conditions import Conditions

BALL = LinfBall(16 / 255)


@dataclass(frozen=True)
class Painted(BaseAttack):
    """Gives an image the grey level that it is told; of a random one, one more each time that it is called."""

    level: int
    random: bool = False
    steps: ClassVar[int] = 1

    @property
    def redraws(self) -> bool:
        return self.random

    def cost(self, models: int) -> tuple[int, int]:
        return 2 * models, models

    def __call__(self, surrogates: Surrogates, batch: Batch) -> Found:
        turn = int(str(batch.draws._path[-1])) if self.random else 0
        return Found(torch.full_like(batch.canvases, self.level + turn))


def asked(
    logits: dict[int, list[float]], attacks: list[Painted], queries: int, **more: Any
) -> tuple[Tensor, int, Tensor]:
    """The levels that are kept, how many pictures the victim was shown, and how often it was asked for each image."""
    network = Counted(Table(logits))
    batch = replace(batch_of(some_canvases(2), [0, 1], **more), victim=surrogates(network))
    attack = Candidates(BALL, attacks=tuple(attacks), queries=queries)
    kept = attack(surrogates(bent()), batch).canvases[:, 0, 0, 0]
    assert batch.victim is not None
    return kept, network.forwards, batch.victim.tally.forwards


def test_the_first_candidate_that_the_victim_falls_for_is_kept() -> None:
    """The image of class 0 falls to the second, the one of class 1 to the third; nothing is asked after that."""
    logits = {10: [2.0, 2.1, 0.0], 20: [0.0, 2.0, 0.0], 30: [0.0, 0.0, 1.0], 40: [9.0, 0.0, 0.0]}
    logits[10] = [2.0, 3.0, 0.0]
    kept, shown, queries = asked(logits, [Painted(10), Painted(20), Painted(30), Painted(40)], 4)
    assert kept.tolist() == [10, 30]
    assert queries.tolist() == [1, 3]
    assert shown == 3 * 2  # a batch is shown whole, also for an image whose answer is not wanted any more


def test_where_none_falls_the_one_is_kept_that_came_nearest() -> None:
    """By the margin: 1 - 3, 1 - 2, 0 - 3 for the image of class 0."""
    logits = {10: [3.0, 1.0, 0.0], 20: [2.0, 0.0, 1.0], 30: [3.0, 0.0, 0.0]}
    kept, _, queries = asked(logits, [Painted(10), Painted(20), Painted(30)], 3)
    assert (kept[0].item(), queries[0].item()) == (20, 3)


@pytest.mark.parametrize("queries", [1, 2, 3])
def test_the_victim_is_never_asked_more_often_than_it_may_be(queries: int) -> None:
    stubborn = {level: [9.0, 9.0, 0.0] for level in (10, 20, 30)}
    stubborn = {level: [9.0, 8.0, 0.0] for level in stubborn}
    kept, shown, counted = asked(stubborn, [Painted(10), Painted(20), Painted(30)], queries)
    assert shown == queries * 2
    assert counted.tolist() == [queries, 1]  # of class 1, the answer is 0 at once
    assert kept.tolist() == [10, 10]


def test_what_is_random_comes_again_after_all_had_their_turn() -> None:
    logits = {level: [9.0, 0.0, 0.0] for level in (10, 21, 22, 23)} | {24: [0.0, 1.0, 0.0]}
    network = Watched(Table(logits))
    batch = replace(batch_of(some_canvases(1), [0]), victim=surrogates(network))
    kept = Candidates(BALL, attacks=(Painted(10), Painted(20, random=True)), queries=5)(surrogates(bent()), batch)
    assert [round(255 * each[0, 0, 0, 0].item()) for each in network.shown] == [10, 21, 22, 23, 24]
    assert kept.canvases[0, 0, 0, 0] == 24


def test_queries_without_candidates_are_refused() -> None:
    with pytest.raises(InputError, match="queries: 3 is more than the 2 candidates"):
        Candidates(BALL, attacks=(Painted(1), Painted(2)), queries=3)
    with pytest.raises(InputError, match="queries: 0 is not at least 1"):
        Candidates(BALL, attacks=(Painted(1),), queries=0)
    for name in ("square", "logit", "svre", "candidates", "pictures"):
        with pytest.raises(InputError, match=f"recipes: {name} is no candidate"):
            recipe("candidates").make(BALL, recipes=("mi-fgsm", name))


CANVASES = some_canvases(12, seed=3)
LABELS = bent(1)(CANVASES.float() / 255).argmax(dim=1)
"""What the victim says of them."""


def attacked_by(name: str, victim: Counted | None, **parameters: Any) -> Attacked:
    defaults = {key: default for key, (_, default) in recipe(name).parameters.items()}
    given = tuple({**defaults, **parameters}.items())
    spec = AttackSpec(name, name, given, ("a",), "logits", "center", NO_DEFENSE, "fp32", "linf", 0.1, None, "b")
    batch = CanvasBatch(tuple(f"{each}" for each in range(12)), tuple(LABELS.tolist()), CANVASES.numpy())
    asks = None if victim is None else as_is(victim)
    return attack_batch(spec, [as_is(bent(0))], batch, Conditions(0, 1.0, 4), victim=asks)


def test_queries_help_against_the_victim_and_cost_what_is_said() -> None:
    """Whatever the first candidate fools is fooled with more queries, too, and some more; the surrogate's passes are
    those of the candidates that were made for the image."""
    recipes = ("fgsm", "bim", "mi-fgsm", "di-fgsm")
    names: dict[str, Any] = {"recipes": recipes, "queries": 8}
    victim = Counted(bent(1))
    found, alone = attacked_by("candidates", victim, **names), attacked_by("fgsm", None)
    assert victim.forwards <= 8 * 12
    assert found.queries.max() <= 8 and alone.queries.tolist() == [0] * 12

    def fooled(each: Attacked) -> Tensor:
        return bent(1)(torch.from_numpy(each.canvases).float() / 255).argmax(dim=1) != LABELS

    assert (fooled(found) >= fooled(alone)).all()
    assert fooled(found).sum() > fooled(alone).sum()
    ended = torch.from_numpy(found.queries) < 8
    assert (fooled(found) >= ended).all()
    passes = [recipe(name).make(BALL).cost(1)[0] for name in (*recipes, *["di-fgsm"] * 4)]
    assert found.forwards.tolist() == [sum(passes[:queries]) for queries in found.queries.tolist()]
    once = attacked_by("candidates", Counted(bent(1)), **{**names, "queries": 1})
    assert (once.canvases == alone.canvases).all()  # fgsm draws nothing


def test_a_run_says_whom_it_asked_and_how_often(tmp_path: Path) -> None:
    """In waves of two models as well as at once; the rows are the same."""
    asked = {"recipe": "candidates", "recipes": ["fgsm", "bim"], "queries": 2, "surrogates": ["lite0"], "eps": "4/255"}
    experiment = tiny(attacks={"asked": {**asked, "victim": "lite1"}}, targets=["lite1"], defenses=[])
    whole, waves = tmp_path / "whole", tmp_path / "waves"
    run(written(tmp_path, experiment), whole)
    run(written(tmp_path, {**experiment, "targets": ["lite0", "lite1"]}), waves, "--models-in-memory", "2")
    assert rows(whole, "attacks") == rows(waves, "attacks")
    fooled = {row["image_id"]: not row["correct"] for row in rows(whole, "predictions") if row["attack"] == "asked"}
    for row in rows(whole, "attacks"):
        assert (row["victim"], row["surrogates"]) == ("lite1", ["lite0"])
        assert row["queries"] == 2 or (row["queries"] == 1 and fooled[row["image_id"]])
    assert invoke("verify", whole).exit_code == 0
    said = " ".join(invoke("table", whole).stdout.split())
    assert "asked on lite1, 2 times an image at most" in said
    answer = invoke("sql", whole, "select bool_and(asked) as a from answers where attack = 'asked'", "--format", "csv")
    assert answer.stdout.split() == ["a", "True"]


@pytest.mark.parametrize(
    ("attack", "said"),
    [
        ({}, "victim: candidates asks a model"),
        ({"victim": "lite0"}, "victim: lite0 is a surrogate"),
        ({"victim": "lite7"}, "unknown model in attacks.a.victim: 'lite7'"),
        ({"victim": "lite1", "recipe": "pgd"}, "victim: pgd asks no model"),
        ({"victim": "lite1", "recipes": []}, "recipes: is empty"),
        ({"victim": "lite1", "recipes": ["bim", "bim"]}, "'bim' is listed twice"),
        ({"victim": "lite1", "recipes": ["bim"]}, "queries: 10 is more than the 1 candidates"),
        ({"victim": "lite1", "recipes": ["square"]}, "recipes: square is no candidate"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, attack: dict[str, Any], said: str) -> None:
    attacks = {"a": {"recipe": "candidates", "surrogates": ["lite0"], "eps": "4/255", **attack}}
    assert said in refused(written(tmp_path, tiny(attacks=attacks)), tmp_path / "run")
