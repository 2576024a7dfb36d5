"""BASES: the paper's loop in NumPy, the bound on queries counted at the victim, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.attacks import Counted, Twin, as_is, batch_of, bent, differences, some_canvases, surrogates
from tests.support.runs import COARSE, invoke, refused, rows, run, tiny, written
from transforms.attacks.balls import LinfBall
from transforms.attacks.engine import attack_batch
from transforms.attacks.recipes.names import recipe
from transforms.attacks.spec import AttackSpec
from transforms.data.outcomes import Attacked
from transforms.data.pixels import CanvasBatch
from transforms.defenses.defense import NO_DEFENSE
from transforms.errors import InputError
from transforms.models.conditions import Conditions

EPS, STEPS = 12, 5
"""In grey levels; a step of 3 EPS / STEPS of them never ends halfway between two."""
SURROGATES = (0, 1, 2)
VICTIM = 7
CANVASES = some_canvases(12, seed=3)
LABELS = bent(VICTIM)(CANVASES.float() / 255).argmax(dim=1)
"""What the victim says of them."""
TARGETS = (LABELS + 2) % 4


def wanted(logits: np.ndarray, label: int, target: int | None) -> np.ndarray:
    """By whose product with the logits the margin is given: the best wrong class less the label, or the target less the
    best other."""
    chosen = label if target is None else target
    others = np.where(np.arange(len(logits)) == chosen, -np.inf, logits)
    found = np.zeros(len(logits))
    found[others.argmax()], found[chosen] = 1, -1
    return found if target is None else -found


def by_the_paper(
    canvas: np.ndarray, label: int, target: int | None, queries: int, rate: float, fuse: str
) -> tuple[np.ndarray, int]:
    """Algorithm 1 for one image: what is kept, in grey levels, and how often the victim was asked."""
    twins, victim = [Twin.of(bent(seed)) for seed in SURROGATES], Twin.of(bent(VICTIM))
    clean, asked = canvas.astype(float), 0
    kept, best = clean, -np.inf

    def slope(point: np.ndarray, weights: np.ndarray) -> np.ndarray:
        every = [each.logits(point / 255) for each in twins]
        together = wanted(sum(weight * each for weight, each in zip(weights, every, strict=True)), label, target)
        found = np.zeros_like(point)
        for weight, twin, logits in zip(weights, twins, every, strict=True):
            found += weight * twin.pulled(point / 255, together if fuse == "logits" else wanted(logits, label, target))
        return found

    def machine(weights: np.ndarray, point: np.ndarray) -> np.ndarray:
        for _ in range(STEPS):
            point = point + 3 * EPS / STEPS * np.sign(slope(point, weights))
            point = np.clip(point, clean - EPS, clean + EPS).clip(0, 255)
        return point.round()

    def ask(point: np.ndarray) -> tuple[float, bool]:
        nonlocal asked, kept, best
        asked += 1
        logits = victim.logits(point / 255)
        margin = wanted(logits, label, target) @ logits
        done = logits.argmax() != label if target is None else logits.argmax() == target
        if done or margin > best:
            kept, best = point, margin
        return margin, bool(done)

    def changed(weights: np.ndarray, model: int, by: float) -> np.ndarray:
        weights = weights.copy()
        weights[model] = max(weights[model] + by, 0)
        return weights / weights.sum()

    weights = np.full(len(twins), 1 / len(twins))
    point, model = machine(weights, clean), 0
    done = ask(point)[1]
    while not done and asked < queries:
        more = changed(weights, model, rate)
        raised = machine(more, point)
        above, done = ask(raised)
        if done or asked == queries:
            break
        less = changed(weights, model, -rate)
        lowered = machine(less, point)
        below, done = ask(lowered)
        point, weights = (raised, more) if above > below else (lowered, less)
        model = (model + 1) % len(twins)
    return kept, asked


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("fuse", ["losses", "logits"])
@pytest.mark.parametrize(("queries", "rate"), [(1, 0.1), (2, 0.1), (3, 0.3), (12, 0.3), (13, 0.6)])
def test_it_is_the_papers_algorithm(targeted: bool, fuse: str, queries: int, rate: float) -> None:
    targets = TARGETS if targeted else None
    batch = replace(batch_of(CANVASES, LABELS, targets), victim=surrogates(bent(VICTIM)))
    attack = recipe("bases").make(LinfBall(EPS / 255), steps=STEPS, queries=queries, learning_rate=rate)
    found = attack(surrogates(*(bent(seed) for seed in SURROGATES), fuse=fuse), batch).canvases
    assert batch.victim is not None
    for number, canvas in enumerate(CANVASES.numpy()):
        target = None if targets is None else int(targets[number])
        kept, asked = by_the_paper(canvas, int(LABELS[number]), target, queries, rate, fuse)
        assert batch.victim.tally.forwards[number] == asked
        assert (found[number].numpy() == kept).all()
    assert abs(differences(found, CANVASES)).max() <= EPS


def attacked_by(name: str, victim: Counted | None, images: int = 12, fuse: Any = "losses", **more: Any) -> Attacked:
    defaults = {key: default for key, (_, default) in recipe(name).parameters.items()}
    given, names = tuple({**defaults, **more}.items()), ("a", "b", "c")
    spec = AttackSpec(name, name, given, names, fuse, "center", NO_DEFENSE, "fp32", "linf", EPS / 255, None, "v")
    batch = CanvasBatch(
        tuple(f"{n}" for n in range(images)), tuple(LABELS.tolist()[:images]), CANVASES.numpy()[:images]
    )
    asks = None if victim is None else as_is(victim)
    return attack_batch(spec, [as_is(bent(n)) for n in SURROGATES], batch, Conditions(0, 1.0, 4), victim=asks)


@pytest.mark.parametrize("queries", [1, 2, 5, 8])
def test_the_victim_is_shown_no_more_than_it_may_be(queries: int) -> None:
    """Counted at the network. 4 images at a time, of which one may be done and yet be shown with the others."""
    network = Counted(bent(VICTIM))
    found = attacked_by("bases", network, queries=queries, learning_rate=0.3)
    assert network.forwards <= queries * 12
    assert found.queries.max() == queries
    alone = Counted(bent(VICTIM))
    one = attacked_by("bases", alone, images=1, queries=queries, learning_rate=0.3)
    assert alone.forwards == 4 * one.queries[0] <= 4 * queries  # a batch is filled up to 4 with the same image


def test_one_query_is_the_plain_ensemble() -> None:
    once = attacked_by("bases", Counted(bent(VICTIM)), queries=1)
    plain = attacked_by("bim", None, alpha=3 * EPS / 10 / 255, objective="margin")
    assert (once.canvases == plain.canvases).all()
    assert once.queries.tolist() == [1] * 12 and plain.queries.tolist() == [0] * 12
    assert (once.forwards == plain.forwards).all() and (once.backwards == plain.backwards).all()


def test_queries_help_and_the_surrogates_passes_are_those_that_were_made() -> None:
    once, often = (
        attacked_by("bases", Counted(bent(VICTIM)), queries=each, learning_rate=0.3, steps=2) for each in (1, 25)
    )

    def fooled(each: Attacked) -> torch.Tensor:
        return bent(VICTIM)(torch.from_numpy(each.canvases).float() / 255).argmax(dim=1) != LABELS

    assert (fooled(often) >= fooled(once)).all() and fooled(often).sum() > fooled(once).sum()
    assert (fooled(often) | torch.from_numpy(often.queries == 25)).all()  # nobody gives up early
    assert often.forwards.tolist() == often.backwards.tolist() == [3 * 2 * each for each in often.queries]
    most = recipe("bases").make(LinfBall(EPS / 255), queries=25, steps=2).cost(3)
    assert most == (25 * (6 + 1), 25 * 6)


def test_an_image_becomes_what_it_becomes_alone() -> None:
    whole, alone = (
        attacked_by("bases", Counted(bent(VICTIM)), images=n, queries=9, learning_rate=0.3) for n in (12, 1)
    )
    assert (whole.canvases[0] == alone.canvases[0]).all()
    assert whole.queries[0] == alone.queries[0] and whole.forwards[0] == alone.forwards[0]


def test_a_rate_or_a_number_of_queries_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(InputError, match="queries: 0 is not at least 1"):
        recipe("bases").make(LinfBall(0.1), queries=0)
    for rate in (0, 1, -0.1):
        with pytest.raises(InputError, match=r"learning_rate: \S+ is not in \(0, 1\)"):
            recipe("bases").make(LinfBall(0.1), learning_rate=rate)


@pytest.mark.parametrize(
    ("attack", "said"),
    [
        ({"surrogates": ["lite0"]}, "surrogates: bases needs 2 or more, not 1"),
        ({"victim": None}, "victim: bases asks a model"),
        ({"victim": "lite0"}, "victim: lite0 is a surrogate"),
        ({"fuse": "probabilities"}, "fuse: bases fuses by losses or logits, not by probabilities"),
        ({"fuse": "drawn"}, "fuse: bases follows its surrogates one by one"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, attack: dict[str, Any], said: str) -> None:
    usual = {"recipe": "bases", "surrogates": ["lite0", "lite1"], "victim": "lite2", "eps": "4/255"}
    models = {**COARSE, "lite2": "packaged/efficientnet-lite2"}
    experiment = tiny(models=models, attacks={"a": {**usual, **attack}})
    assert said in refused(written(tmp_path, experiment), tmp_path / "run")


def test_a_run_says_whom_it_asked_and_how_often(tmp_path: Path) -> None:
    models = {**COARSE, "lite2": "packaged/efficientnet-lite2"}
    asks = {"recipe": "bases", "surrogates": ["lite0", "lite1"], "victim": "lite2", "eps": "2/255"}
    attacks = {"asks": {**asks, "queries": 3, "steps": 1}}
    run(written(tmp_path, tiny(models=models, attacks=attacks, targets=["lite2"], defenses=[])), tmp_path / "run")
    fooled = {
        each["image_id"]: not each["correct"]
        for each in rows(tmp_path / "run", "predictions")
        if each["attack"] == "asks"
    }
    for row in rows(tmp_path / "run", "attacks"):
        assert (row["victim"], row["fuse"]) == ("lite2", "losses")
        assert row["queries"] == 3 or (row["queries"] < 3 and fooled[row["image_id"]])
        assert row["forwards"] == row["backwards"] == 2 * row["queries"]
    assert invoke("verify", tmp_path / "run").exit_code == 0
    assert "asks on lite2, 3 times an image at most" in " ".join(invoke("table", tmp_path / "run").stdout.split())
