"""Turned and shifted canvases, beside SciPy's, and the searches among them, beside a plain loop."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from tests.support.attacks import SIDE, as_is, batch_of, bent, some_canvases, surrogates
from transforms.attacks.drivers.spatial import turned
from transforms.attacks.protocol import Attack
from transforms.attacks.recipes.names import recipe
from transforms.errors import InputError

SMALL = {"max_rotation": 30.0, "max_translation": 3.0}
GRID = {**SMALL, "num_rotations": 5, "num_translations": 3}


def make(name: str, **parameters: Any) -> Attack:
    return recipe(name).make(None, **parameters)


def by_scipy(canvas: np.ndarray, angle: float, right: float, down: float) -> np.ndarray:
    """One canvas (3, S, S), turned counter-clockwise about its centre, then shifted; in double precision."""
    a, middle = np.deg2rad(angle), (canvas.shape[-1] - 1) / 2
    # Seen from the centre with rows pointing down, the pixel at (row, column) comes from here.
    back = np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])
    offset = middle - back @ (middle + np.array([down, right]))
    planes = [ndimage.affine_transform(p.astype(float), back, offset, order=1, mode="grid-constant") for p in canvas]
    return np.stack(planes)


def test_a_quarter_turn_is_counter_clockwise_and_a_shift_goes_right_and_down() -> None:
    canvas = some_canvases(1, side=8).float()
    (quarter,) = turned(canvas, torch.tensor([[90.0, 0, 0]])).numpy()
    assert np.allclose(quarter, np.rot90(canvas[0].numpy(), axes=(1, 2)), atol=1e-2)
    (shifted,) = turned(canvas, torch.tensor([[0.0, 2, 1]])).numpy()
    assert np.allclose(shifted[:, 1:, 2:], canvas[0, :, :-1, :-2], atol=1e-2)
    assert not shifted[:, :1].any() and not shifted[:, :, :2].any()  # black


@pytest.mark.parametrize("side", [8, 11])
def test_between_pixels_they_are_scipys(side: int) -> None:
    canvases = some_canvases(4, side=side)
    moves = torch.tensor([[30.0, 2, -1], [-17.5, 0.25, 3.5], [180, 0, 0], [5, -1.75, 0]])
    found = turned(canvases.float(), moves).numpy()
    for ours, canvas, move in zip(found, canvases.numpy(), moves.tolist(), strict=True):
        assert np.allclose(ours, by_scipy(canvas, *move), atol=1e-2)


def searched(network: torch.nn.Module, canvas: Tensor, label: int, target: int | None, moves: Any) -> Iterator[Any]:
    """For each move: whether it reaches the goal, its cross-entropy towards it, and the move."""
    for move in moves:
        stored = np.rint(by_scipy(canvas.numpy(), *move)).astype(np.uint8)
        logits = surrogates(network).logits(torch.from_numpy(stored)[None].float() / 255)[0].double()
        entropy = -logits.log_softmax(dim=0)
        predicted = int(logits.argmax())
        reached = predicted != label if target is None else predicted == target
        yield reached, float(entropy[label] if target is None else -entropy[target]), move, stored


@pytest.mark.parametrize("targets", [None, [1, 2, 3, 0, 1, 2]])
def test_the_grid_search_is_a_loop_over_all_moves(targets: list[int] | None) -> None:
    """Of the moves that reach the goal, else of all, the one with the highest loss."""
    canvases, network = some_canvases(6, 3), bent(3)
    labels = surrogates(network).logits(canvases / 255).argmax(dim=1)
    attacked = surrogates(network)
    attack = make("spatial", **{**GRID, "max_rotation": 1.0, "max_translation": 0.1})
    found = attack(attacked, batch_of(canvases, labels, targets))
    grid = list(product(np.linspace(-1, 1, 5), np.linspace(-0.1, 0.1, 3), np.linspace(-0.1, 0.1, 3)))
    assert found.measured is not None
    moved = torch.stack([found.measured[key] for key in ("rotation", "shift_x", "shift_y")], dim=1)
    outcomes = set()
    for number in range(6):
        target = None if targets is None else targets[number]
        tried = searched(network, canvases[number], int(labels[number]), target, grid)
        reached, _, move, stored = max(tried, key=lambda each: each[:2])
        assert moved[number].tolist() == pytest.approx(move, abs=1e-5)
        assert np.abs(found.canvases[number].numpy().astype(int) - stored).max() <= 1
        outcomes.add(reached)
    assert outcomes == {True, False}
    assert (attacked.tally.forwards == 45).all() and not attacked.tally.backwards.any()
    assert make("spatial", **GRID).cost(2) == (90, 0)


def test_a_move_that_reaches_the_goal_beats_any_other_and_then_the_loss_counts() -> None:
    answers = iter(
        [
            (torch.tensor([False, True, True, False]), torch.tensor([5.0, 1, 2, 3])),
            (torch.tensor([True, False, True, False]), torch.tensor([1.0, 9, 3, 2])),
        ]
    )

    class Scripted:
        def judge(self, *_: Any) -> tuple[Tensor, Tensor]:
            return next(answers)

    batch = batch_of(some_canvases(4), [0, 0, 0, 0])
    attack: Any = make("spatial-random", **SMALL, tries=2)
    found = attack(Scripted(), batch)
    tried = [moves[:, 0].tolist() for moves in attack._moves(batch.draws, 4)]
    expected = [tried[which][image] for image, which in enumerate([1, 0, 1, 0])]
    assert found.measured["rotation"].tolist() == pytest.approx(expected)


def test_an_axis_without_room_is_tried_once() -> None:
    assert make("spatial", max_rotation=0.0).cost(1) == (25, 0)
    assert make("spatial", max_translation=0.0).cost(1) == (31, 0)
    assert make("spatial").cost(1) == (31 * 5 * 5, 0)


def test_the_worst_of_random_moves() -> None:
    """Up to the bounds, for each image others; more tries never help the models, and all but fill the range."""
    canvases, network = some_canvases(4), bent()
    labels = surrogates(network).logits(canvases / 255).argmax(dim=1)
    values = []
    for tries in (1, 5, 25):
        found = make("spatial-random", **SMALL, tries=tries)(surrogates(network), batch_of(canvases, labels))
        assert found.measured is not None
        for name, most in (("rotation", 30), ("shift_x", 3), ("shift_y", 3)):
            assert (found.measured[name].abs() <= most).all() and len(set(found.measured[name].tolist())) == 4
        logits = surrogates(network).logits(found.canvases / 255)
        fooled = logits.argmax(dim=1) != labels
        values.append(10 * fooled + torch.nn.functional.cross_entropy(logits, labels, reduction="none"))
        moves = torch.stack(list(found.measured.values()), dim=1)
        again = turned(canvases.float(), moves).round()
        assert torch.equal(again.to(torch.uint8), found.canvases)  # the row says how the canvas was made
    assert (values[1] >= values[0]).all() and (values[2] >= values[1]).all() and (values[2] > values[0]).any()
    drawn = torch.cat(list(_moves(200)))
    assert (drawn.abs().amax(dim=0) > torch.tensor([29.0, 2.9, 2.9])).all()
    assert (drawn.mean(dim=0).abs() < torch.tensor([3.0, 0.3, 0.3])).all()


def _moves(tries: int) -> Iterator[Tensor]:
    attack: Any = make("spatial-random", **SMALL, tries=tries)
    return iter(attack._moves(batch_of(some_canvases(2), [0, 0]).draws, 2))


@pytest.mark.parametrize("name", ["spatial", "spatial-random"])
def test_rows_do_not_depend_on_the_batch(name: str) -> None:
    canvases, network = some_canvases(8, 5), bent(5)
    attack = make(name, **(GRID if name == "spatial" else SMALL))
    whole = []
    for size in (1, 3, 8):
        parts = []
        for start in range(0, 8, size):
            some = canvases[start : start + size]
            found = attack(surrogates(network), batch_of(some, [0] * len(some), first=start))
            assert found.measured is not None
            parts.append((found.canvases, *found.measured.values()))
        whole.append([torch.cat(column) for column in zip(*parts, strict=True)])
    for other in whole[1:]:
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(whole[0], other, strict=True))


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("spatial", {"max_rotation": 181.0}, "max_rotation: 181.0 is not in [0, 180]"),
        ("spatial", {"max_translation": -1.0}, "max_translation: -1.0 is not at least 0"),
        ("spatial", {"num_rotations": 1}, "num_rotations: 1 is not at least 2"),
        ("spatial-random", {"tries": 0}, "tries: 0 is not at least 1"),
        (
            "spatial-random",
            {"max_rotation": 0.0, "max_translation": 0.0},
            "max_rotation: 0 with max_translation: 0 moves nothing; take one above 0",
        ),
    ],
)
def test_wrong_parameters_are_refused_in_one_line(name: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as raised:
        make(name, **parameters)
    assert str(raised.value) == message


def test_a_canvas_is_not_moved_out_of_sight() -> None:
    with pytest.raises(InputError, match=r"^max_translation: 24 moves a canvas of 12 pixels out of sight\Z"):
        make("spatial").check(SIDE)
    make("spatial").check(224)
    make("spatial").check_models([as_is(bent())])
