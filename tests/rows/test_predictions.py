"""Rows of predictions from log-probabilities made by hand."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from transforms.attacks.objectives import Goal
from transforms.data.pixels import CanvasBatch
from transforms.defenses.grid import parse
from transforms.models.answers import Answers, defend_batch
from transforms.models.conditions import Conditions
from transforms.rows.predictions import prediction_rows


def _batch(count: int) -> CanvasBatch:
    names = tuple(f"image-{item}" for item in range(count))
    return CanvasBatch(names, tuple(range(count)), np.zeros((count, 3, 16, 16), np.uint8))


def _rows(
    *answers: torch.Tensor, defense: str = "none", target: int | None = None, all_probabilities: bool = False
) -> list[dict[str, Any]]:
    """The rows of as many images as there are rows in each answer, log-probabilities (N, 1000)."""
    batch = _batch(len(answers[0]))
    given = Answers(batch.labels)
    for each in answers:
        given.add(each)
    if target is not None:
        batch = replace(batch, targets=(target,) * len(batch.labels))
    return prediction_rows(batch, given.summed_up(), parse(defense), all_probabilities=all_probabilities)


def test_a_row_by_hand() -> None:
    probabilities = torch.full((1, 1000), 0.2 / 996)
    probabilities[0, [0, 7, 8, 9]] = torch.tensor([0.1, 0.4, 0.2, 0.1])
    (row,) = _rows(probabilities.log(), target=8, all_probabilities=True)
    assert (row["label"], row["predicted"], row["predicted_name"], row["correct"]) == (0, 7, "cock", False)
    assert row["confidence"] == pytest.approx(0.4)
    assert row["label_confidence"] == pytest.approx(0.1)
    assert (row["target"], row["target_confidence"]) == (8, pytest.approx(0.2))
    assert row["margin"] == pytest.approx(math.log(0.1 / 0.4), rel=1e-5)
    assert row["top5_labels"][:2] == [7, 8]
    assert row["top5_confidences"][:2] == pytest.approx([0.4, 0.2])
    assert sum(row["probabilities"]) == pytest.approx(1, abs=1e-4)


def test_the_margin_of_a_right_answer_is_positive() -> None:
    logits = torch.zeros(1, 1000)
    logits[0, 0] = 3.0
    (row,) = _rows(logits.log_softmax(dim=1))
    assert row["correct"]
    assert row["margin"] == pytest.approx(3)
    assert row["target_confidence"] is None
    assert row["probabilities"] is None


def test_the_order_of_the_top_five_survives_a_confidence_of_one() -> None:
    logits = torch.zeros(1, 1000)
    logits[0, [5, 9, 3]] = torch.tensor([900.0, 500.0, 300.0])  # all but the first have probability 0 in float32
    (row,) = _rows(logits.log_softmax(dim=1))
    assert row["top5_labels"][:3] == [5, 9, 3]


@pytest.mark.parametrize("seed", range(10))
def test_of_equally_probable_classes_the_lowest_is_predicted_as_attacks_have_it(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    tied = torch.randperm(1000, generator=generator)[:7]
    logits = torch.rand((1, 1000), generator=generator)
    logits[0, tied] = 9.0
    (row,) = _rows(logits.log_softmax(dim=1))
    assert row["top5_labels"] == sorted(tied.tolist())[:5]
    assert not Goal(torch.tensor([row["predicted"]])).reached(logits)


def test_an_answer_that_is_not_a_number_is_no_row() -> None:
    logits = torch.zeros(3, 1000)
    logits[1, 4] = torch.nan
    rows = _rows(logits.log_softmax(dim=1))
    assert [row["image_id"] for row in rows] == ["image-0", "image-2"]


def _peaks(*classes: int, height: float = 0.8) -> torch.Tensor:
    """Log-probabilities of one image: `height` on a class, the rest on all others. One row per class."""
    probabilities = torch.full((len(classes), 1000), (1 - height) / 999)
    probabilities[torch.arange(len(classes)), list(classes)] = height
    return probabilities.log()


def test_of_a_random_defence_probabilities_are_averaged_and_their_spread_is_said() -> None:
    (row,) = _rows(_peaks(0), _peaks(0, height=0.6), _peaks(7, height=0.5), defense="noise:sigma=0.1,repeats=3")
    of_the_label = [0.8, 0.6, 0.5 / 999]
    assert row["label_confidence"] == pytest.approx(np.mean(of_the_label), rel=1e-5)
    assert row["label_confidence_std"] == pytest.approx(np.std(of_the_label, ddof=1), rel=1e-5)
    assert (row["predicted"], row["correct"], row["agreement"]) == (0, True, pytest.approx(2 / 3))
    assert row["votes"] == [0, 0, 7]
    assert (row["abstained"], row["certified_radius"]) == (None, None)


def test_the_average_and_not_the_majority_decides() -> None:
    (row,) = _rows(
        _peaks(0, height=0.99), _peaks(7, height=0.4), _peaks(7, height=0.4), defense="noise:sigma=0.1,repeats=3"
    )
    assert (row["predicted"], row["correct"], row["agreement"]) == (0, True, pytest.approx(1 / 3))


def test_a_single_answer_has_no_spread_and_is_what_the_model_said() -> None:
    given = torch.randn(5, 1000, generator=torch.Generator().manual_seed(0)).log_softmax(dim=1)
    answers = Answers(range(5))
    answers.add(given)
    assert np.array_equal(answers.summed_up().log_probabilities, given)
    assert {
        row[key] for row in _rows(given) for key in ("label_confidence_std", "votes", "agreement", "abstained")
    } == {None}


def test_votes_decide_behind_smoothing_and_an_abstention_is_not_correct() -> None:
    """Of 110 votes that are all alike the class is certain; of votes that are split in halves nothing is."""
    alike, split = [_peaks(0)] * 110, [_peaks(0), _peaks(7)] * 55
    answers = [torch.cat(pair) for pair in zip(alike, split, strict=True)]
    sure, unsure = _rows(*answers, defense="smoothing:sigma=0.25,samples=110,alpha=0.05")
    assert (sure["predicted"], sure["correct"], sure["abstained"]) == (0, True, False)
    assert sure["certified_radius"] > 0 and sure["agreement"] == 1
    assert unsure["abstained"] and not unsure["correct"] and unsure["certified_radius"] == 0


def test_what_is_drawn_for_an_image_does_not_depend_on_its_batch_nor_on_its_pixels() -> None:
    generator = np.random.default_rng(0)
    pixels = generator.integers(64, 192, (5, 3, 16, 16), dtype=np.uint8)
    batch = CanvasBatch(tuple("abcde"), tuple(range(5)), pixels)
    noisy = parse("noise:sigma=0.02,repeats=2")
    first, second = (defend_batch(noisy, batch, repeat, Conditions(3, 1.0, 5)) for repeat in (0, 1))
    assert not torch.equal(first, second) and not torch.equal(
        first, defend_batch(noisy, batch, 0, Conditions(4, 1.0, 5))
    )
    for size in (1, 2, 3):
        assert torch.equal(defend_batch(noisy, batch, 0, Conditions(3, 1.0, size)), first)
    other = CanvasBatch(("c", "a"), (2, 0), np.full((2, 3, 16, 16), 128, np.uint8))
    found = defend_batch(noisy, other, 0, Conditions(3, 1.0, 2)).int() - 128
    assert torch.equal(found, (first.int() - torch.from_numpy(pixels).int())[[2, 0]])
