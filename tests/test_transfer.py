"""Rows of predictions from log-probabilities made by hand."""

import math

import numpy as np
import pytest
import torch

from transforms.canvases import CanvasBatch
from transforms.transfer import prediction_rows


def _batch(count: int) -> CanvasBatch:
    names = tuple(f"image-{item}" for item in range(count))
    return CanvasBatch(names, tuple(range(count)), np.zeros((count, 3, 16, 16), np.uint8))


def test_a_row_by_hand() -> None:
    probabilities = torch.full((1, 1000), 0.2 / 996)
    probabilities[0, [0, 7, 8, 9]] = torch.tensor([0.1, 0.4, 0.2, 0.1])
    (row,) = prediction_rows(_batch(1), probabilities.log(), target=8, all_probabilities=True)
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
    (row,) = prediction_rows(_batch(1), logits.log_softmax(dim=1), target=None, all_probabilities=False)
    assert row["correct"]
    assert row["margin"] == pytest.approx(3)
    assert row["target_confidence"] is None
    assert row["probabilities"] is None


def test_the_order_of_the_top_five_survives_a_confidence_of_one() -> None:
    logits = torch.zeros(1, 1000)
    logits[0, [5, 9, 3]] = torch.tensor([900.0, 500.0, 300.0])  # all but the first have probability 0 in float32
    (row,) = prediction_rows(_batch(1), logits.log_softmax(dim=1), target=None, all_probabilities=False)
    assert row["top5_labels"][:3] == [5, 9, 3]


def test_an_answer_that_is_not_a_number_is_no_row() -> None:
    logits = torch.zeros(3, 1000)
    logits[1, 4] = torch.nan
    rows = prediction_rows(_batch(3), logits.log_softmax(dim=1), target=None, all_probabilities=False)
    assert [row["image_id"] for row in rows] == ["image-0", "image-2"]
