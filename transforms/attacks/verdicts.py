"""Verdicts over the draws of a random defence, as an attack is judged by them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from transforms.attacks.objectives import Goal, margin
from transforms.data.verdicts import Verdict
from transforms.models.views import averaged


def decided(verdict: Verdict, draws: Sequence[Tensor], goal: Goal) -> Tensor:
    """Logits that a verdict goes by, whose largest is the answer; not numbers where those of a draw are not.

    Args:
        draws: logits (B, classes) of each draw.

    Returns:
        (B, classes). By the mean, logits of averaged probabilities; by the majority, logarithms of each class's share
        of the draws, in which it is the most probable; in the worst of n, those of the draw with the largest margin
        for the attacker, who reaches the goal if any draw does.
    """
    if verdict == "mean":
        return averaged(draws)
    together = torch.stack(tuple(draws))
    if verdict == "majority":
        votes = torch.nn.functional.one_hot(together.argmax(dim=2), together.shape[2]).sum(dim=0)
        numbers = ~together.isnan().any(dim=2).any(dim=0)
        return torch.where(numbers[:, None], (votes / len(draws)).log(), torch.nan)
    # Of two classes that are equally probable the lower one is the answer, whose margin is 0 for either side.
    margins = [
        torch.where(goal.reached(each), margin(each, goal).clamp(min=_TINY), margin(each, goal)) for each in draws
    ]
    best = torch.stack(margins).argmax(dim=0)
    return together[best, torch.arange(together.shape[1], device=best.device)]


_TINY = torch.finfo(torch.float32).tiny
