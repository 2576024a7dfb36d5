"""Purifiers: networks of a user's own package that clean canvases, and that attacks differentiate."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Purifier:
    """A plug-in defence that is differentiable, as an entry point in `megalith.defenses`.

    It is called with a micro-batch at a time, whose pictures may not change one another. An attack that knows it
    follows its gradient, by autograd, so it must not detach. A purifier of many steps keeps memory low by
    `torch.utils.checkpoint.checkpoint(step, x, use_reentrant=False)` around each; what `draws` give is the same when a
    step is done again.

    Attributes:
        function: (canvases, *, parameters) or, if it is random, (canvases, draws, *, parameters), from float32
            (B, 3, S, S) in [0, 1], on the experiment's device, to the same shape. Parameters are ints or floats without
            defaults. The result is clipped and rounded to 8 bits before a model sees it.
        batched: False if it draws from the generators of torch, NumPy or Python: it is then called with one canvas at a
            time, and these are seeded for each.
    """

    function: Callable[..., Tensor]
    batched: bool = True
