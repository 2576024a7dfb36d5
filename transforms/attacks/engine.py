"""The engine: attacks a chunk of canvases in micro-batches, and regroups them between the stages of a cascade."""

from collections.abc import Sequence
from dataclasses import fields, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from transforms.attacks.modifiers.modified import Modified
from transforms.attacks.objectives import Goal
from transforms.attacks.protocol import Attack, Batch, Found
from transforms.attacks.spec import AttackSpec
from transforms.attacks.surrogates import Surrogates
from transforms.attacks.targets import wanted
from transforms.data.outcomes import Attacked
from transforms.data.pixels import WHITE, CanvasBatch, Pixels
from transforms.defenses.differentiable import differentiable
from transforms.errors import InputError
from transforms.models.batches import in_micro_batches
from transforms.models.classifier import Classifier
from transforms.models.conditions import Conditions
from transforms.models.device import Precision
from transforms.models.views import VIEWS
from transforms.randomness import Draws


def as_followed(spec: AttackSpec, classifiers: Sequence[Classifier]) -> list[Classifier]:
    """The surrogates as they give gradients.

    Args:
        classifiers: as `attack_batch` takes them.

    Raises:
        InputError: a network lacks what is to be modified.
    """
    modifiers, found = dict(spec.modifiers), []
    for name, classifier in zip(spec.surrogates, classifiers, strict=True):
        by = {each.name: each.make() for each in modifiers.get(name, ())}
        try:
            found.append(Modified(classifier, by) if by else classifier)
        except InputError as error:
            raise InputError(f"surrogates.{name}.modify: {error}") from None
    return found


def attack_batch(
    spec: AttackSpec,
    classifiers: Sequence[Classifier],
    batch: CanvasBatch,
    conditions: Conditions,
    pool: CanvasBatch | None = None,
    pictures: Pixels | None = None,
    victim: Classifier | None = None,
) -> Attacked:
    """Attacks stored canvases, at least one, in micro-batches.

    A cascade's later stages get the images that still stand, together: no pass is spent on the others.

    Args:
        classifiers: the surrogates, in the order of `spec.surrogates`, on one device; as torch has loaded
            them where `spec.plain` says so.
        pool: what an attack may mix in; None where there is nothing.
        pictures: uint8 like those of the batch, what another tool has made of them; None for an attack that makes them.
        victim: the model that the attack asks, on the same device; None for an attack that asks none.
    """
    stages = spec.build().stages
    chunk = _UnderAttack(spec, classifiers, batch, conditions, pool, pictures, victim)
    attacked = chunk.in_micro_batches(stages[0], list(range(len(batch.labels))))
    for number, stage in enumerate(stages[1:], start=1):
        standing = chunk.standing(attacked)
        if not standing:
            break
        again = chunk.in_micro_batches(stage, standing, stage=number)
        attacked = _with(attacked, standing, again)
    return attacked


def clean_answer(
    spec: AttackSpec, classifiers: Sequence[Classifier], batch: CanvasBatch, conditions: Conditions
) -> Tensor:
    """The fused surrogates' logits (N, classes) for clean canvases, at least one: as the attack looks at them, but not
    through the defence that it knows. No pass of the attack."""
    surrogates = Surrogates(classifiers, VIEWS[spec.view], conditions.field_of_view, spec.fuse)
    canvases = torch.from_numpy(batch.pixels)

    def work(items: list[int]) -> tuple[Tensor]:
        with torch.inference_mode():
            return (surrogates.logits(canvases[items].to(classifiers[0].device).float() / WHITE).cpu(),)

    (logits,) = in_micro_batches(work, len(batch.labels), conditions.micro_batch)
    return logits


class _UnderAttack:
    """A chunk under attack."""

    def __init__(
        self,
        spec: AttackSpec,
        classifiers: Sequence[Classifier],
        batch: CanvasBatch,
        conditions: Conditions,
        pool: CanvasBatch | None,
        pictures: Pixels | None,
        victim: Classifier | None,
    ) -> None:
        self._spec = spec
        self._classifiers = classifiers
        self._followed = as_followed(spec, classifiers)
        self._batch = batch
        self._conditions = conditions
        self._device = classifiers[0].device if classifiers else torch.device("cpu")
        self._canvases = torch.from_numpy(batch.pixels)
        self._labels = torch.tensor(batch.labels)
        # Never the batch itself: what an image becomes may not depend on its neighbours.
        mixed_in, classes = (self._canvases[:0], []) if pool is None else (torch.from_numpy(pool.pixels), pool.labels)
        self._pool = mixed_in.to(self._device)
        self._pool_labels = torch.tensor(classes, dtype=torch.int64, device=self._device)
        self._pictures = None if pictures is None else torch.from_numpy(pictures)
        self._victim = victim
        self._goal = Goal(self._labels, self._wanted())

    def in_micro_batches(self, attack: Attack, images: list[int], stage: int = 0) -> Attacked:
        """Attacks some of the chunk's images, by number."""

        def work(items: list[int]) -> tuple[Tensor, ...]:
            return self._attack(attack, [images[item] for item in items], stage)

        found = in_micro_batches(work, len(images), self._conditions.micro_batch)
        targets = None if self._goal.targets is None else self._goal.targets[images].numpy()
        return replace(Attacked(*(each.numpy() for each in found)), targets=targets)

    def standing(self, attacked: Attacked) -> list[int]:
        """The numbers of the images that the attack has not brought to its goal."""
        reached = self._goal.reached(torch.from_numpy(attacked.adversarial)).numpy()
        return np.flatnonzero(~reached & attacked.finite).tolist()

    def _wanted(self) -> Tensor | None:
        """The targets, int64 (N,)."""
        if self._spec.target is None:
            return None
        answer = partial(clean_answer, self._spec, self._classifiers, self._batch, self._conditions)
        return wanted(self._spec.target, self._batch, self._conditions.seed, answer)

    def _attack(self, attack: Attack, items: list[int], stage: int) -> tuple[Tensor, ...]:
        canvases = self._canvases[items].to(self._device)
        labels = self._labels[items].to(self._device)
        targets = None if self._goal.targets is None else self._goal.targets[items].to(self._device)
        draws = Draws(self._conditions.seed, self._spec.name, [self._batch.image_ids[item] for item in items])
        surrogates = self._surrogates(draws, self._spec.precision)
        tally = surrogates.tally
        pictures = None if self._pictures is None else self._pictures[items].to(self._device)
        goal = Goal(labels, targets)
        victim = None
        if self._victim is not None:
            victim = Surrogates([self._victim], VIEWS["center"], self._conditions.field_of_view)
        task = Batch(canvases, goal, draws.at("stage", stage), self._pool, self._pool_labels, pictures, victim)
        found = attack(surrogates, task)
        judges = self._surrogates(draws, "fp32")
        passes = torch.zeros(len(items), dtype=torch.int64)
        clean, adversarial = (_probabilities(judges, each, goal) for each in (canvases, found.canvases))
        finite = torch.ones(len(items), dtype=torch.bool)
        if tally.finite is not None:
            # What reaches the goal does so whatever its gradients were. What does not might have, with better ones.
            finite = tally.finite.cpu() | goal.reached(adversarial.to(self._device)).cpu()
        return (
            found.canvases.cpu(),
            torch.full((len(items),), torch.nan) if found.norms is None else found.norms.cpu(),
            _measured(attack, found),
            finite & ~(clean + adversarial).isnan().any(dim=1),
            passes + tally.forwards,
            passes + tally.backwards,
            passes if victim is None else passes + victim.tally.forwards,
            clean,
            adversarial,
        )

    def _surrogates(self, draws: Draws, precision: Precision) -> Surrogates:
        spec = self._spec
        judging = draws.at("judging")
        shown = partial(differentiable, spec.defense, backward=spec.backward)
        return Surrogates(
            self._classifiers,
            VIEWS[spec.view],
            self._conditions.field_of_view,
            spec.fuse,
            followed=self._followed,
            defense=[shown(judging.at("repeat", n)) for n in range(spec.defense.repeats)],
            redraw=shown if spec.defense.random else None,
            verdict=spec.verdict,
            precision=precision,
        )


def _measured(attack: Attack, found: Found) -> Tensor:
    """What the attack measured, double (B, columns) on the CPU; the same columns for all stages of a cascade."""
    columns = [] if found.measured is None else [found.measured[name].double().cpu() for name in attack.measures]
    return torch.stack(columns, dim=1) if columns else torch.empty(len(found.canvases), 0)


def _probabilities(surrogates: Surrogates, canvases: Tensor, goal: Goal) -> Tensor:
    """Of uint8 canvases, float (B, classes) on the CPU; without surrogates, of no classes."""
    if not surrogates.members:
        return torch.empty(len(canvases), 0)
    with torch.inference_mode():
        return surrogates.judged(canvases.float() / WHITE, goal).softmax(dim=1).cpu()


def _with(attacked: Attacked, items: list[int], again: Attacked) -> Attacked:
    """Some images' results replaced by those of a later stage, with the passes of both."""
    replaced = {each.name: getattr(attacked, each.name).copy() for each in fields(Attacked) if each.name != "targets"}
    for name, values in replaced.items():
        before = values[items]
        values[items] = getattr(again, name)
        if name in {"forwards", "backwards", "queries"}:
            values[items] += before
    return replace(attacked, **replaced)
