"""Targets of single images: what is written, what is drawn, and what follows from answers made by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.support.attacks import as_is
from transforms.attacks.engine import attack_batch
from transforms.attacks.spec import AttackSpec
from transforms.attacks.targets import Column, Random, Ranked, Target, parse_target, parse_targets, wanted
from transforms.data.pixels import CanvasBatch
from transforms.defenses.defense import Defense
from transforms.defenses.grid import parse
from transforms.errors import InputError
from transforms.models.classifier import Classifier
from transforms.models.conditions import Conditions


def batch_of(labels: list[int], targets: tuple[int, ...] | None = None, names: str = "image") -> CanvasBatch:
    ids = tuple(f"{names} {number}" for number in range(len(labels)))
    return CanvasBatch(ids, tuple(labels), np.zeros((len(labels), 3, 12, 12), np.uint8), targets)


# --- what is written


@pytest.mark.parametrize(
    ("given", "target", "said"),
    [
        ("megalith", 649, "649"),
        (649, 649, "649"),
        ("n02056570", 145, "145"),
        ("random", Random(), "random"),
        ("random:7", Random(7), "random:7"),
        ("second", Ranked("second"), "second"),
        ("least-likely", Ranked("least-likely"), "least-likely"),
        ({"column": "TargetClass"}, Column("TargetClass"), "column:TargetClass"),
    ],
)
def test_one_target_is_read_and_said(given: Any, target: Target, said: str) -> None:
    assert parse_targets(given) == target
    assert str(target) == said
    assert parse_target(said) == target


def test_several_targets_are_a_list_or_drawn_together() -> None:
    assert parse_targets(["megalith", "random", {"column": "a b"}]) == (649, Random(), Column("a b"))
    assert parse_targets({"random": 3}) == (Random(1), Random(2), Random(3))
    assert parse_targets(None) is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "the list is empty"),
        ([649, "megalith"], "649 is listed twice"),
        (["random", "random:1"], "random is listed twice"),
        ({"random": 0}, "0 is out of range; an image has 1–999 classes"),
        ({"random": 1000}, "1000 is out of range"),
        ({"random": True}, "True is no number of targets; take 1–999"),
        ("random:0", "0 is out of range"),
        ({"column": ""}, "names no column"),
        ({"column": "a@b"}, "without @"),
        ({"colum": "a"}, "unknown class"),
        ("least_likly", "unknown class 'least_likly'"),
    ],
)
def test_what_is_no_target_is_refused(given: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_targets(given)


# --- what is drawn


def test_the_targets_of_an_image_are_all_classes_but_its_own_in_an_order_of_its_own() -> None:
    batch = batch_of([3, 999])
    drawn = np.array([wanted(Random(number), batch, 0).tolist() for number in range(1, 1000)])
    assert sorted(drawn[:, 0]) == [each for each in range(1000) if each != 3]
    assert sorted(drawn[:, 1]) == [*range(999)]
    assert (drawn[:, 0] != drawn[:, 1]).sum() > 900


def test_what_is_drawn_depends_on_the_seed_and_the_image_alone() -> None:
    labels = list(range(50))
    whole = wanted(Random(2), batch_of(labels), 7).tolist()
    for number, label in enumerate(labels):
        alone = CanvasBatch((f"image {number}",), (label,), np.zeros((1, 3, 4, 4), np.uint8))
        assert wanted(Random(2), alone, 7).tolist() == [whole[number]]
    assert wanted(Random(2), batch_of(labels), 8).tolist() != whole
    assert wanted(Random(2), batch_of(labels, names="other"), 7).tolist() != whole
    # Another label changes what is drawn of its image only where it was drawn before, or is the target.
    relabelled = wanted(Random(1), batch_of([999] * 50), 7).tolist()
    first = wanted(Random(1), batch_of(labels), 7).tolist()
    assert sum(one != other for one, other in zip(first, relabelled, strict=True)) <= 2


def test_all_classes_are_drawn_alike() -> None:
    """5,000 draws over 999 classes: the chi-squared statistic has mean 998 and deviation 45."""
    drawn = wanted(Random(), batch_of([0] * 5000), 0)
    counts = torch.bincount(drawn, minlength=1000)[1:].double()
    assert abs(float(((counts - 5000 / 999) ** 2 / (5000 / 999)).sum()) - 998) < 4 * 45


# --- what follows from the answer


def test_second_and_least_likely_are_never_the_label() -> None:
    answer = torch.tensor([[5.0, 4, 3, 2], [4.0, 5, 3, 2], [5.0, 4, 3, 2], [1.0, 1, 0, 0]])
    batch = batch_of([0, 0, 3, 1])
    assert wanted(Ranked("second"), batch, 0, lambda: answer).tolist() == [1, 1, 0, 0]
    assert wanted(Ranked("least-likely"), batch, 0, lambda: answer).tolist() == [3, 3, 2, 2]


def test_a_column_is_what_the_batch_was_given() -> None:
    assert wanted(Column("x"), batch_of([1, 2], (5, 2)), 0).tolist() == [5, 2]
    with pytest.raises(ValueError, match="column:x: the batch has no targets"):
        wanted(Column("x"), batch_of([1, 2]), 0)


class Bright(nn.Module):
    """Logits are a matrix times the mean of each colour."""

    def __init__(self, rows: list[list[float]]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(rows, dtype=torch.float32))

    def forward(self, windows: Tensor) -> Tensor:
        return windows.mean(dim=(2, 3)) @ self.weight.T


NETS = [
    Bright([[9, 0, 0], [0, 9.5, 0], [0, 0, 9], [-20, 3, 3]]),
    Bright([[9, 0, 0], [0, 9, 0], [-12, 0, 9], [2, 2, 0]]),
]
RED, GREEN, PINK = (250, 10, 10), (10, 250, 10), (250, 140, 160)
COLOURS = [RED, GREEN, PINK]


def coloured() -> CanvasBatch:
    pixels = np.broadcast_to(np.array(COLOURS, np.uint8)[:, :, None, None], (3, 3, 12, 12))
    return CanvasBatch(("red", "green", "pink"), (0, 1, 0), np.ascontiguousarray(pixels))


def attacked(
    target: Target, surrogates: list[Classifier], *, fuse: Any = "logits", defense: Defense | None = None, size: int = 2
) -> list[int]:
    names = tuple(f"n{number}" for number in range(len(surrogates)))
    through = parse("none") if defense is None else defense
    spec = AttackSpec("a", "fgsm", (), names, fuse, "center", through, "fp32", "linf", 0.1, target)
    found = attack_batch(spec, surrogates, coloured(), Conditions(0, 1.0, size))
    assert found.targets is not None
    return list(found.targets.tolist())


def by_hand(fuse: str, nets: list[Bright]) -> np.ndarray:
    """Fused logits (3 images, 4 classes), with NumPy alone."""
    means = np.array(COLOURS) / 255
    answers = [means @ net.weight.detach().double().numpy().T for net in nets]
    if fuse == "logits":
        return np.mean(answers, axis=0)
    odds = [np.exp(each) / np.exp(each).sum(axis=1, keepdims=True) for each in answers]
    return np.mean(odds, axis=0)


@pytest.mark.parametrize("fuse", ["logits", "probabilities"])
@pytest.mark.parametrize("nets", [NETS[:1], NETS[1:], NETS])
def test_several_surrogates_answer_as_one(nets: list[Bright], fuse: str) -> None:
    fused, labels = by_hand(fuse, nets), np.array([0, 1, 0])
    others = np.where(np.arange(4) == labels[:, None], np.nan, fused)
    surrogates = [as_is(net) for net in nets]
    for size in (1, 3):
        assert attacked(Ranked("second"), surrogates, fuse=fuse, size=size) == np.nanargmax(others, axis=1).tolist()
        assert (
            attacked(Ranked("least-likely"), surrogates, fuse=fuse, size=size) == np.nanargmin(others, axis=1).tolist()
        )


def test_the_ways_of_answering_differ_where_it_matters() -> None:
    """So that the test above tells them apart."""
    single = [by_hand("logits", [net])[2].argmin() for net in NETS]
    assert single[0] != single[1]


def test_an_attack_that_knows_a_defence_wants_what_one_without_wants() -> None:
    """Behind it, pink is white, and green the likeliest class but the label; without it blue is."""
    surrogates = [as_is(NETS[0])]
    blind = attacked(Ranked("second"), surrogates)
    assert blind[2] == 2
    assert attacked(Ranked("second"), surrogates, defense=parse("bit-depth:bits=1")) == blind
    white = np.ones(3) @ NETS[0].weight.detach().numpy().T
    assert white[1] > white[2]
