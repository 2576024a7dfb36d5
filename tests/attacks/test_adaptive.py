"""Adaptive evaluation: attacks that know a defence, beside those that do not, and random defences all the way."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.attacks import QUICK, batch_of, bent, for_recipe, some_canvases, surrogates
from tests.support.runs import Finished, Json, invoke, refused, rows, run, tiny, written
from transforms.attacks.balls import LinfBall
from transforms.attacks.gradients import Gradients
from transforms.attacks.objectives import cross_entropy
from transforms.attacks.recipes.names import recipe, with_changing
from transforms.defenses.differentiable import differentiable
from transforms.defenses.grid import parse

JPEG, NOISE = "jpeg:quality=75", "noise:sigma=0.05,repeats=2"
BIM = {"recipe": "bim", "surrogates": ["lite0"], "eps": "4/255", "steps": 2}


def adaptive(**changes: Any) -> Json:
    return tiny(
        attacks={
            "bim": {**BIM, "eot": 3, "adaptive": True},
            "fgsm": {"recipe": "fgsm", "surrogates": ["lite0"], "eps": "4/255", "adaptive": [JPEG]},
            "written": {**BIM, "defense": JPEG},
        },
        defenses=[{"jpeg": {"quality": 75}}, NOISE],
        **changes,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("adaptive")
    path = written(folder, adaptive())
    return Finished(path, folder / "run", run(path, folder / "run").stdout)


@pytest.mark.system
def test_an_adaptive_attack_is_made_once_more_for_each_defence(finished: Finished) -> None:
    made = {(row["attack"], row["through"]) for row in rows(finished.output, "attacks")}
    assert made == {
        *(("bim", "none"), (f"bim@{JPEG}", JPEG), (f"bim@{NOISE}", NOISE)),
        *(("fgsm", "none"), (f"fgsm@{JPEG}", JPEG)),
        ("written", JPEG),
    }


@pytest.mark.system
def test_what_knows_one_defence_is_looked_at_behind_that_one(finished: Finished) -> None:
    seen = {(row["attack"], row["defense"]) for row in rows(finished.output, "predictions")}
    everything = {
        (attack, defense) for attack in ("none", "bim", "fgsm", "written") for defense in ("none", JPEG, NOISE)
    }
    variants = {(f"{attack}@{defense}", defense) for attack, defense in (("bim", JPEG), ("bim", NOISE), ("fgsm", JPEG))}
    assert seen == everything | variants | {(attack, "none") for attack, _ in variants}


def test_a_variant_is_the_attack_with_the_defence_written_out(finished: Finished) -> None:
    canvases = {(row["attack"], row["image_id"]): row["canvas_sha256"] for row in rows(finished.output, "canvases")}
    images = {image for _, image in canvases}
    for image in images:
        assert canvases[f"bim@{JPEG}", image] == canvases["written", image] != canvases["bim", image]


def test_only_what_is_random_is_drawn_again(finished: Finished) -> None:
    passes = {(row["attack"], row["forwards"], row["backwards"]) for row in rows(finished.output, "attacks")}
    assert {each for each in passes if each[0].startswith("bim")} == {
        *(("bim", 2, 2), (f"bim@{JPEG}", 2, 2)),
        (f"bim@{NOISE}", 6, 6),  # two steps, three draws each
    }


def test_rows_behind_a_random_defence_say_how_much_they_spread(finished: Finished) -> None:
    for row in rows(finished.output, "predictions"):
        random = row["defense"] == NOISE
        assert (row["label_confidence_std"] is not None) == random == (row["agreement"] is not None)
        assert row["abstained"] is None
        if random:
            assert row["agreement"] in {0, 0.5, 1} and row["label_confidence_std"] >= 0


@pytest.mark.system
def test_the_summary_marks_a_defence_that_nobody_attacked(finished: Finished, tmp_path: Path) -> None:
    assert "bim, adaptive" in finished.summary and "fgsm, adaptive" in finished.summary
    assert f"{JPEG} *" not in finished.summary and "no attack here" not in finished.summary
    path = written(tmp_path, adaptive())
    knows_one = {"bim": {**BIM, "adaptive": [JPEG]}}
    summary = run(path, tmp_path / "run", f"--set=attacks={json.dumps(knows_one)}").stdout
    assert f"{NOISE} *" in summary and f"{JPEG} *" not in summary
    assert "* no attack here knows this defence" in summary


def test_one_more_defence_costs_its_variant_and_its_looks(finished: Finished, tmp_path: Path) -> None:
    output = finished.copy(tmp_path / "run")
    more = written(tmp_path, adaptive())
    planned = invoke("plan", more, "--output", output, f"--set=defenses=[{JPEG}, '{NOISE}', 'bit-depth:bits=4']").stdout
    assert "bim@bit-depth:bits=4" in planned
    to_do = {line.split("│")[1].strip(): line.split("│")[3].strip() for line in planned.splitlines() if "│" in line}
    # 2 chunks; 3 attacks and the clean images behind the new one, the new variant behind none and it
    assert (to_do["load"], to_do["attack"], to_do["predict"]) == ("0", "2", str(2 * (4 + 2)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["defenses=[]"], ["attacks.bim.adaptive", "no defences"]),
        ([f"defenses=['{JPEG}']"], ["attacks.bim.eot", "3", "none of the defences is random"]),
        (["attacks.fgsm.adaptive=['jpeg:quality=70']"], ["attacks.fgsm.adaptive", "did you mean 'jpeg:quality=75'?"]),
        (["attacks.written.adaptive=true"], ["attacks.written", "adaptive", JPEG]),
        (["attacks.fgsm.adaptive=[jpg:quality=75]"], ["attacks.fgsm.adaptive", "did you mean 'jpeg'?"]),
        ([f"attacks.fgsm.adaptive=['{JPEG}', '{JPEG}']"], ["attacks.fgsm.adaptive", "twice"]),
        (["attacks.fgsm.adaptive=[]"], ["attacks.fgsm.adaptive", "true", "list of defences"]),
        (["attacks.fgsm.adaptive=yes please"], ["attacks.fgsm.adaptive", "'yes please'"]),
        ([f"defenses=['{JPEG}', '{NOISE}', '{'+'.join([JPEG] * 12)}']"], ["too long to name a folder"]),
        (
            ["attacks.bim={recipe: apgd-ce, surrogates: [lite0], eps: 4/255, adaptive: true}"],
            ["attacks.bim", "random", "apgd-ce", "pgd", "adaptive:"],
        ),
        (
            [f"attacks.bim={{recipe: square, surrogates: [lite0], eps: 4/255, defense: '{NOISE}'}}"],
            ["random", "square"],
        ),
        (
            ["attacks.bim.defense=[jpeg:quality=75, {blur: {sigma: [1, 2]}}]", "attacks.bim.adaptive=false"],
            ["stands for 2 defences"],
        ),
    ],
)
def test_what_makes_no_sense_is_refused(changes: list[str], words: list[str], tmp_path: Path) -> None:
    path = written(tmp_path, adaptive())
    line = refused(path, tmp_path / "run", *(f"--set={each}" for each in changes))
    for word in words:
        assert word in line, line


def test_adaptive_or_not_is_no_other_attack(finished: Finished, tmp_path: Path) -> None:
    """The variants have names of their own, so a run directory takes both."""
    output = finished.copy(tmp_path / "run")
    path = written(tmp_path, adaptive())
    planned = invoke("plan", path, "--output", output, "--set=attacks.fgsm.adaptive=false")
    assert planned.exit_code == 0 and "to do: about 0 forward" in planned.stdout


# Expectation over a random defence -----------------------------------------------------------------------------------


class Watched(torch.nn.Module):
    """A network that remembers what it was shown, and whether a gradient was wanted."""

    def __init__(self) -> None:
        super().__init__()
        self.network = bent()
        self.shown: dict[bool, list[torch.Tensor]] = {True: [], False: []}

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        self.shown[windows.requires_grad].append(windows.detach().clone())
        logits: torch.Tensor = self.network(windows)
        return logits


def attacked(network: torch.nn.Module, ids: list[int], **parameters: Any) -> torch.Tensor:
    """BIM on some neighbours of four toy images behind noise that is drawn twice."""
    noise, batch = parse("noise:sigma=0.05,repeats=2"), batch_of(some_canvases(4)[ids], ids, first=ids[0])
    models = surrogates(
        network,
        defense=[differentiable(noise, batch.draws.at("judging", n)) for n in range(noise.repeats)],
        redraw=partial(differentiable, noise),
    )
    return (
        with_changing(recipe("bim"), "", model_draws=noise.repeats)
        .make(LinfBall(8 / 255), **parameters)(models, batch)
        .canvases
    )


def test_each_gradient_is_of_another_draw_and_none_of_those_that_judge() -> None:
    watched = Watched()
    attacked(watched, [0, 1], steps=3, eot=2, keep="best")
    of_gradients, judged = watched.shown[True], watched.shown[False]
    assert len(of_gradients) == 3 * 2 and len(judged) == 3 * 2  # two draws each, of three steps
    first, second = of_gradients[:2]  # of one canvas
    assert not torch.equal(first, second)
    assert all(not torch.equal(one, other) for one in of_gradients for other in judged)


@pytest.mark.parametrize(
    "name",
    [
        "adaea",
        "emi-fgsm",
        "mi-fgsm",
        "vmi-fgsm",
        "svre",
        "cwa",
        "smer",
        "dta",
        "rap",
        "ops",
        "mumodig",
        "decowa",
        "l2t",
        "pc-i-fgsm",
    ],
)
@pytest.mark.parametrize("more", [{}, {"eot": 2}, {"keep": "best"}])
def test_the_cost_behind_a_random_defence_is_what_is_really_paid(name: str, more: dict[str, Any]) -> None:
    noise, batch = parse("noise:sigma=0.05,repeats=5"), batch_of(some_canvases(2), [0, 1])
    models = surrogates(
        *for_recipe(name),
        defense=[differentiable(noise, batch.draws.at("judging", n)) for n in range(noise.repeats)],
        redraw=partial(differentiable, noise),
    )
    made = with_changing(recipe(name), "", model_draws=noise.repeats)
    few = {key: QUICK[key] for key in QUICK if key in made.parameters}
    attack = made.make(LinfBall(8 / 255), **{**few, **more})
    attack(models, batch)
    forwards, backwards = attack.cost(made.models)
    assert (models.tally.forwards.tolist(), models.tally.backwards.tolist()) == ([forwards] * 2, [backwards] * 2)


def test_the_draws_of_an_image_are_its_own() -> None:
    together = attacked(bent(), [0, 1, 2, 3], steps=3, eot=2)
    for item in range(4):
        assert torch.equal(attacked(bent(), [item], steps=3, eot=2)[0], together[item])


def test_more_draws_come_nearer_to_the_expected_gradient() -> None:
    """Of a fixed network the mean gradient over 2000 draws stands for the expectation."""
    batch, noise = batch_of(some_canvases(1), [0]), parse("noise:sigma=0.1,repeats=1")
    models = surrogates(bent(), redraw=partial(differentiable, noise))

    def gradient(eot: int, key: str) -> torch.Tensor:
        return Gradients(models, cross_entropy, batch, eot=eot).at(batch.clean, batch.draws.at(key)).flatten()

    expected = gradient(2000, "expected")
    errors = {eot: [float((gradient(eot, f"{key}") - expected).norm()) for key in range(10)] for eot in (1, 16)}
    assert sum(errors[16]) < 0.4 * sum(errors[1])  # a quarter, but for chance


def test_success_behind_a_random_defence_is_that_of_averaged_probabilities() -> None:
    noise, batch = parse("noise:sigma=0.1,repeats=3"), batch_of(some_canvases(2), [0, 1])
    shown = [differentiable(noise, batch.draws.at("repeat", n)) for n in range(3)]
    found = surrogates(bent(), defense=shown).logits(batch.clean).softmax(dim=1)
    expected = torch.stack([bent()(each(batch.clean)).softmax(dim=1) for each in shown]).mean(dim=0)
    assert torch.allclose(found, expected, atol=1e-6)
