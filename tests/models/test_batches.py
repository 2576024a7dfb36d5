"""Micro-batches: filled up, cut off; and on real weights, no image's numbers depend on its neighbours."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.conftest import Samples
from transforms.attacks.objectives import Goal, cross_entropy
from transforms.attacks.surrogates import Surrogates
from transforms.models.batches import in_micro_batches
from transforms.models.classifier import Classifier
from transforms.models.conditions import equal_parts, usual_micro_batch
from transforms.models.views import center


def recorded(calls: list[list[int]], most: int = 10**6) -> Callable[[list[int]], tuple[Tensor, Tensor]]:
    """Returns each item's square and its negative, as a machine whose memory holds `most` items."""

    def work(items: list[int]) -> tuple[Tensor, Tensor]:
        calls.append(items)
        if len(items) > most:
            raise torch.OutOfMemoryError("fake")
        numbers = torch.tensor(items)
        return numbers**2, torch.stack([-numbers, -numbers], dim=1)

    return work


@given(st.integers(1, 40), st.integers(1, 12))
def test_every_item_once_and_in_order(count: int, size: int) -> None:
    calls: list[list[int]] = []
    squares, negatives = in_micro_batches(recorded(calls), count, size)
    assert squares.tolist() == [number**2 for number in range(count)]
    assert negatives.tolist() == [[-number, -number] for number in range(count)]
    assert all(len(items) == size for items in calls)
    assert len(calls) == -(-count // size)


def test_a_short_batch_repeats_its_last_item() -> None:
    calls: list[list[int]] = []
    in_micro_batches(recorded(calls), 7, 3)
    assert calls == [[0, 1, 2], [3, 4, 5], [6, 6, 6]]
    calls.clear()
    in_micro_batches(recorded(calls), 2, 8)
    assert calls == [[0, 1, 1, 1, 1, 1, 1, 1]]


def test_out_of_memory_is_told_to_the_run() -> None:
    """Which halves the size for all that comes, and writes it down."""
    with pytest.raises(torch.OutOfMemoryError, match="fake"):
        in_micro_batches(recorded([], most=3), 7, 8)


def test_other_errors_are_not_swallowed() -> None:
    def work(items: list[int]) -> tuple[Tensor, ...]:
        raise RuntimeError(f"broken at {items[0]}")

    with pytest.raises(RuntimeError, match="broken at 0"):
        in_micro_batches(work, 3, 2)


def test_size_is_bounded_by_the_chunk() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert [usual_micro_batch(cpu, chunk) for chunk in (1, 3)] == [1, 3]
    assert usual_micro_batch(cpu, 10_000) == usual_micro_batch(cpu, 1_000) <= usual_micro_batch(cuda, 1_000)


@given(chunk=st.integers(1, 300), most=st.integers(1, 100))
def test_no_other_size_fills_up_less_in_as_few_parts(chunk: int, most: int) -> None:
    def parts(size: int) -> int:
        return len(range(0, chunk, size))

    size = equal_parts(chunk, most)
    allowed = [each for each in range(1, most + 1) if parts(each) == min(parts(other) for other in range(1, most + 1))]
    assert size in allowed
    assert size * parts(size) == min(each * parts(each) for each in allowed)


def looked_at(lite0: Classifier, samples: Samples, order: list[int], size: int) -> tuple[Tensor, Tensor]:
    """Logits, and gradients of the cross-entropy, of the samples in this order."""

    def work(places: list[int]) -> tuple[Tensor, Tensor]:
        items = [order[place] for place in places]
        canvases = samples.canvases[items].float() / 255
        surrogates = Surrogates([lite0], center, 224 / 256)
        gradient = surrogates.slope(canvases, cross_entropy, Goal(samples.labels[items])).gradient
        with torch.inference_mode():
            return surrogates.logits(canvases).clone(), gradient

    logits, gradients = in_micro_batches(work, len(order), size)
    return logits, gradients


@pytest.mark.system
@pytest.mark.parametrize("size", [4, 8])
def test_an_image_does_not_feel_its_neighbours(size: int, lite0: Classifier, samples: Samples) -> None:
    """Bit for bit: in any order, at any place of the micro-batch, beside others or beside its own repetitions."""
    count = 8
    logits, gradients = looked_at(lite0, samples, list(range(count)), size)
    assert logits.std() > 0.1 and gradients.abs().amax(dim=(1, 2, 3)).min() > 0
    orders = [[5, 2, 7, 0, 3, 6, 1, 4], [7, 6, 5, 4, 3, 2, 1, 0], [3], [6, 3], [12, 1, 15, 3, 10]]
    for order in orders:
        kept = [place for place, item in enumerate(order) if item < count]
        items = [order[place] for place in kept]
        other_logits, other_gradients = looked_at(lite0, samples, order, size)
        assert torch.equal(other_logits[kept], logits[items])
        assert torch.equal(other_gradients[kept], gradients[items])
