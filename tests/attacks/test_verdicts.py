"""Verdicts over the draws of a random defence, by which attacks are judged, against counts by hand."""

import numpy as np
import pytest
import torch

from tests.attacks.test_surrogates import canvas_batch, spec_for
from tests.support.attacks import as_is, batch_of, bent, some_canvases, surrogates
from transforms.attacks.engine import attack_batch
from transforms.attacks.objectives import Goal, cross_entropy
from transforms.attacks.verdicts import decided
from transforms.data.verdicts import Verdict
from transforms.defenses.differentiable import differentiable
from transforms.defenses.grid import parse
from transforms.models.conditions import Conditions
from transforms.randomness import Draws

# Three draws of two images, true class 0. The first image is said to be 0, 0 and, very surely, 1; the second 1, 2, 0.
DRAWS = [
    torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 0.5]]),
    torch.tensor([[2.0, 1.0, 0.0], [0.0, 0.5, 3.0]]),
    torch.tensor([[0.0, 9.0, 0.0], [1.0, 0.0, 0.0]]),
]
LABELS = torch.tensor([0, 0])


@pytest.mark.parametrize(
    ("verdict", "answers", "fooled"),
    [("mean", [1, 2], [True, True]), ("majority", [0, 0], [False, False]), ("worst-of-n", [1, 2], [True, True])],
)
def test_a_verdict_over_draws_is_what_a_count_by_hand_says(
    verdict: Verdict, answers: list[int], fooled: list[bool]
) -> None:
    """One sure draw outweighs two in the mean. Of one vote for each class the lowest wins."""
    goal = Goal(LABELS)
    logits = decided(verdict, DRAWS, goal)
    assert (logits.argmax(dim=1).tolist(), goal.reached(logits).tolist()) == (answers, fooled)


def test_the_majority_is_as_sure_as_its_share_of_the_draws() -> None:
    shares = decided("majority", DRAWS, Goal(LABELS)).softmax(dim=1)
    assert torch.allclose(shares, torch.tensor([[2 / 3, 1 / 3, 0], [1 / 3, 1 / 3, 1 / 3]]))


def test_the_worst_draw_of_a_targeted_attack_is_the_one_that_says_the_target() -> None:
    """Class 1 is said once of either image, whatever other wrong classes are."""
    assert decided("worst-of-n", DRAWS, Goal(LABELS, torch.tensor([1, 1]))).argmax(dim=1).tolist() == [1, 1]


@pytest.mark.parametrize("verdict", ["mean", "majority", "worst-of-n"])
def test_a_draw_that_is_not_a_number_reaches_no_goal(verdict: Verdict) -> None:
    broken = [*DRAWS[:2], torch.full((2, 3), torch.nan)]
    assert not Goal(LABELS).reached(decided(verdict, broken, Goal(LABELS))).any()


def test_a_draw_with_two_equal_classes_reaches_what_its_lower_one_does() -> None:
    tied, sure = torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 0.0]])
    goal = Goal(torch.tensor([1]))
    assert goal.reached(decided("worst-of-n", [sure, tied], goal)).all()


@pytest.mark.parametrize("verdict", ["mean", "majority", "worst-of-n"])
def test_an_attack_is_judged_by_its_verdict_and_climbs_the_mean(verdict: Verdict) -> None:
    """Judged draw by draw, as someone would who looks at each picture."""
    noise, batch = parse("noise:sigma=0.1,repeats=3"), batch_of(some_canvases(16), [n % 4 for n in range(16)])
    shown = [differentiable(noise, batch.draws.at("repeat", n)) for n in range(3)]
    models = surrogates(bent(), defense=shown, verdict=verdict)
    reached, value = models.judge(batch.clean, cross_entropy, batch.goal)
    each = [bent()(one(batch.clean)).softmax(dim=1) for one in shown]
    said = np.array([one.argmax(dim=1).tolist() for one in each])
    assert len({tuple(column) for column in said.T if len(set(column)) > 1}) >= 1  # draws that disagree
    for item, label in enumerate(batch.goal.labels.tolist()):
        wrong = [vote != label for vote in said[:, item]]
        by_hand = {
            "mean": int(sum(one[item] for one in each).argmax()) != label,
            "majority": np.bincount(said[:, item]).argmax() != label,
            "worst-of-n": any(wrong),
        }
        assert reached[item] == by_hand[verdict]
    usual = surrogates(bent(), defense=shown).judge(batch.clean, cross_entropy, batch.goal)[1]
    assert torch.equal(value, usual)


def test_rows_of_attacks_say_what_the_verdict_says() -> None:
    """`adversarial` is what success in a row follows from; here against the draws of the evaluation, one by one."""
    noise, canvases, labels = parse("noise:sigma=0.1,repeats=3"), some_canvases(6), [0, 1, 2, 3, 0, 1]
    batch = canvas_batch(canvases, labels)
    spec = spec_for("bim", defense=noise, verdict="worst-of-n", parameters=(("steps", 2), ("keep", "best")))
    attacked = attack_batch(spec, [as_is(bent())], batch, Conditions(0, 1.0, 6))
    draws = Draws(0, spec.name, list(batch.image_ids)).at("judging")
    stored = torch.from_numpy(attacked.canvases) / 255
    said = [bent()(differentiable(noise, draws.at("repeat", n))(stored)).argmax(dim=1) for n in range(3)]
    wrong = torch.stack([each != torch.tensor(labels) for each in said]).any(dim=0)
    assert (attacked.adversarial.argmax(axis=1) != np.array(labels)).tolist() == wrong.tolist()
