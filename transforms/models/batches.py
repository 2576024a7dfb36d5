"""Fixed-size micro-batches, so that no image's numbers depend on its neighbours."""

from collections.abc import Callable

import torch
from torch import Tensor

_MOST = {"cpu": 8, "cuda": 64}


def micro_batch(device: torch.device, chunk_size: int) -> int:
    """Images to show a model at once: what suits the device, but no more than a chunk holds."""
    return min(_MOST[device.type], chunk_size)


def in_micro_batches(work: Callable[[list[int]], tuple[Tensor, ...]], count: int, size: int) -> tuple[Tensor, ...]:
    """Runs `work` on `count` items, always exactly `size` of them at a time, and joins what it returns.

    Convolution kernels choose their summation order by the shape of the batch, so the last bit of a result depends on
    how many images share it, but neither on which nor on their places in it. A short batch is therefore filled up by
    repeating its last item, and the results of the repetitions are dropped. Out of accelerator memory halves the size
    from there on.

    Args:
        work: maps a list of item numbers to tensors whose first dimension follows that list.
        count: number of items, >= 1.
        size: items per call, >= 1.

    Raises:
        torch.OutOfMemoryError: a single item is too much.
    """
    pieces: list[tuple[Tensor, ...]] = []
    start = 0
    while start < count:
        items = list(range(start, min(start + size, count)))
        filled = items + items[-1:] * (size - len(items))
        try:
            results = work(filled)
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            size //= 2
            torch.cuda.empty_cache()
            continue
        pieces.append(tuple(result[: len(items)] for result in results))
        start += len(items)
    return tuple(torch.cat(parts) for parts in zip(*pieces, strict=True))
