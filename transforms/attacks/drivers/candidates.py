"""Candidates: attacks on surrogates, about each of which another model is asked."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, islice, repeat
from typing import ClassVar, get_args

from transforms.attacks.balls import Ball
from transforms.attacks.drivers.shared import Shown
from transforms.attacks.protocol import Attack, BaseAttack, Batch, Found, PoolUse
from transforms.attacks.surrogates import Surrogates
from transforms.errors import InputError
from transforms.ranges import at_least


@dataclass(frozen=True, kw_only=True)
class Candidates(BaseAttack):
    """Shows the victim what one attack after the other makes of an image, until one reaches the goal.

    Where none does, the one is kept of which the victim's margin is best; of a single query, the first. So one query
    changes nothing, and every further one can only help against the victim. Attacks whose transformations are
    drawn at random come again, with other draws, after all have had their turn.

    Attributes:
        ball: the budget of all.
        attacks: in order, all on the same surrogates.
        queries: stored canvases that the victim is shown for an image, at most.
    """

    ball: Ball = field(kw_only=False)
    attacks: tuple[Attack, ...]
    queries: int
    steps: ClassVar[None] = None

    def __post_init__(self) -> None:
        at_least(1, queries=self.queries)
        if self.queries > len(self.attacks) and not self.redraws:
            raise InputError(
                f"queries: {self.queries} is more than the {len(self.attacks)} candidates, none of which is drawn at "
                "random; name more recipes"
            )

    @property
    def redraws(self) -> bool:
        return any(attack.redraws for attack in self.attacks)

    @property
    def pool(self) -> PoolUse:
        uses = {attack.pool for attack in self.attacks}
        return next(use for use in reversed(get_args(PoolUse)) if use in uses)

    def check(self, side: int) -> None:
        for attack in self.attacks:
            attack.check(side)

    def cost(self, models: int) -> tuple[int, int]:
        """Of an image that withstands all candidates, with a pass of the victim for each."""
        forwards, backwards = zip(*(attack.cost(models) for attack in self._candidates()), strict=True)
        return sum(forwards) + self.queries, sum(backwards)

    def _candidates(self) -> Iterator[Attack]:
        again = [attack for attack in self.attacks if attack.redraws]
        return islice(chain(self.attacks, chain.from_iterable(repeat(again))), self.queries)

    def __call__(self, surrogates: Surrogates, batch: Batch) -> Found:
        shown = Shown.begin(batch)
        for number, attack in enumerate(self._candidates()):
            attacked = surrogates.counting(shown.standing)
            if attacked.idle:
                break
            shown.show(attack(attacked, replace(batch, draws=batch.draws.at("candidate", number))).canvases)
        return Found(shown.canvases)
