"""Fixed-size micro-batches, so that no image's numbers depend on its neighbours."""

from collections.abc import Callable

import torch
from torch import Tensor


def in_micro_batches(work: Callable[[list[int]], tuple[Tensor, ...]], count: int, size: int) -> tuple[Tensor, ...]:
    """Runs `work` on `count` items, always exactly `size` of them at a time, and joins what it returns.

    Convolution kernels choose their summation order by the shape of the batch, so the last bit of a result depends on
    how many images share it, but neither on which nor on their places in it. A short batch is therefore filled up by
    repeating its last item, and the results of the repetitions are dropped.

    Args:
        work: maps a list of item numbers to tensors whose first dimension follows that list.
        count: number of items, >= 1.
        size: items per call, >= 1.
    """
    pieces = []
    for start in range(0, count, size):
        items = list(range(start, min(start + size, count)))
        results = work(items + items[-1:] * (size - len(items)))
        pieces.append(tuple(result[: len(items)] for result in results))
    return tuple(torch.cat(parts) for parts in zip(*pieces, strict=True))
