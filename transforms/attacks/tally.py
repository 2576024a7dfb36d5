"""Tally: what an attack has asked of its surrogates."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_NO_PASSES = torch.tensor(0)


@dataclass
class Tally:
    """What was asked of the surrogates so far.

    Attributes:
        forwards, backwards: passes of one network over one window: int64 (B,), or a single 0 before the first.
        finite: bool (B,), whether every gradient of the image was finite; None before the first gradient. A gradient
            that is not counts as zero, so that one broken image does not stop the others.
    """

    forwards: Tensor = _NO_PASSES
    backwards: Tensor = _NO_PASSES
    finite: Tensor | None = None

    def count(self, counted: Tensor, *, forwards: int = 0, backwards: int = 0) -> None:
        """Adds passes to each image, times `counted`, int64 (B,)."""
        self.forwards = self.forwards + forwards * counted
        self.backwards = self.backwards + backwards * counted

    def add(self, alone: Sequence["Tally"], device: torch.device) -> None:
        """Adds what was counted for each of the images alone."""
        self.forwards = self.forwards + torch.tensor([int(each.forwards) for each in alone])
        self.backwards = self.backwards + torch.tensor([int(each.backwards) for each in alone])
        self.check(torch.tensor([each.finite is None or bool(each.finite) for each in alone], device=device))

    def check(self, finite: Tensor) -> None:
        """Remembers which gradients were finite, bool (B,)."""
        self.finite = finite if self.finite is None else self.finite & finite
