"""Attacking: stored clean canvases become stored adversarial canvases and rows of `attacks`."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import apache_beam as beam
import torch
from torch import Tensor

from transforms.attacks.balls import BALLS
from transforms.attacks.bands import Band, leaked
from transforms.attacks.objectives import Goal
from transforms.attacks.protocol import Attack, Batch
from transforms.attacks.recipes import behind_random, recipe
from transforms.attacks.surrogates import Fusion, Precision, Surrogates
from transforms.attacks.transformations import Mixing
from transforms.attempts import death_rows, guarded
from transforms.canvases import CanvasBatch, Pixels, canvas_sha256, canvas_table
from transforms.chunks import Chunk, ImageRef, Work
from transforms.defenses.differentiable import differentiable
from transforms.defenses.grid import Defense
from transforms.distances import distances
from transforms.held_models import prepare_torch
from transforms.images import read_batch
from transforms.levels import WHITE
from transforms.models.batches import in_micro_batches
from transforms.models.classifier import Classifier
from transforms.models.views import VIEWS
from transforms.randomness import Draws
from transforms.setting import Setting
from transforms.store import CLEAN, attack_parts
from transforms.stored_canvases import Canvases, read_canvases
from transforms.tables import failure_row, rows_table


@dataclass(frozen=True)
class AttackSpec:
    """An attack of an experiment, fully named: small and picklable.

    Attributes:
        name: as the experiment calls it.
        recipe, norm: a name that `attacks.recipes.recipe` resolves, and one of `BALLS`.
        parameters: the recipe's own, by name.
        surrogates: names of models.
        fuse, view: how surrogates are combined and look at a canvas.
        defense: what the attack sees the canvas through.
        precision: of gradients.
        eps: budget in the unit of [0, 1] pixels.
        target: class wanted by a targeted attack, 0–999, or None.
    """

    name: str
    recipe: str
    parameters: tuple[tuple[str, Any], ...]
    surrogates: tuple[str, ...]
    fuse: Fusion
    view: str
    defense: Defense
    precision: Precision
    norm: str
    eps: float
    target: int | None

    @property
    def mixes(self) -> bool:
        """Whether it needs pictures of other classes."""
        return any(isinstance(each, Mixing) for each in self.build().transformations)

    def build(self) -> Attack:
        """Makes the attack; raises InputError for a parameter out of its range, or a defence that it cannot know."""
        defense = self.defense
        made = behind_random(self.recipe, defense.repeats) if defense.random else recipe(self.recipe)
        return made.make(BALLS[self.norm](self.eps), **dict(self.parameters))


@dataclass(frozen=True)
class Attacked:
    """What an attack made of N images; CPU tensors.

    Attributes:
        canvases: uint8 (N, 3, S, S).
        norms: float (N,), the smallest adversarial perturbation found by a minimal-norm attack, infinite where there
            was none; NaN for attacks of a fixed budget.
        finite: bool (N,); where False a gradient or an answer was not finite, and the canvas means nothing.
        forwards, backwards: int (N,), passes of one network over one window that the attack took.
        clean, adversarial: float (N, classes), the fused surrogates' probabilities for the stored canvases.
    """

    canvases: Tensor
    norms: Tensor
    finite: Tensor
    forwards: Tensor
    backwards: Tensor
    clean: Tensor
    adversarial: Tensor


def attack_batch(
    spec: AttackSpec,
    classifiers: Sequence[Classifier],
    field: float,
    batch: CanvasBatch,
    seed: int,
    size: int,
    pool: CanvasBatch | None = None,
) -> Attacked:
    """Attacks stored canvases, at least one, in micro-batches of `size`.

    A cascade's later stages get the images that still stand, together: no pass is spent on the others.

    Args:
        classifiers: the surrogates, in the order of `spec.surrogates`, on one device.
        field: the part of the images' centre squares that the canvases hold, in (0, 1].
        pool: what an attack that is `pooled` may mix in; None where there is nothing.
    """
    stages = spec.build().stages
    chunk = _UnderAttack(spec, classifiers, field, batch, seed, pool)
    attacked = chunk.in_micro_batches(stages[0], list(range(len(batch.labels))), size)
    for number, stage in enumerate(stages[1:], start=1):
        standing = (~chunk.goal.reached(attacked.adversarial) & attacked.finite).nonzero().flatten().tolist()
        if not standing:
            break
        again = chunk.in_micro_batches(stage, standing, size, stage=number)
        attacked = _with(attacked, standing, again)
    return attacked


class _UnderAttack:
    """A chunk under attack."""

    def __init__(
        self,
        spec: AttackSpec,
        classifiers: Sequence[Classifier],
        field: float,
        batch: CanvasBatch,
        seed: int,
        pool: CanvasBatch | None,
    ) -> None:
        self._spec = spec
        self._classifiers = classifiers
        self._field = field
        self._batch = batch
        self._seed = seed
        self._device = classifiers[0].device
        self._canvases = torch.from_numpy(batch.pixels)
        self._labels = torch.tensor(batch.labels)
        # Never the batch itself: what an image becomes may not depend on its neighbours.
        pictures, classes = (self._canvases[:0], []) if pool is None else (torch.from_numpy(pool.pixels), pool.labels)
        self._pool = pictures.to(self._device)
        self._pool_labels = torch.tensor(classes, dtype=torch.int64, device=self._device)
        self.goal = Goal(self._labels, None if spec.target is None else torch.full_like(self._labels, spec.target))

    def in_micro_batches(self, attack: Attack, images: list[int], size: int, stage: int = 0) -> Attacked:
        """Attacks some of the chunk's images, by number."""

        def work(items: list[int]) -> tuple[Tensor, ...]:
            return self._attack(attack, [images[item] for item in items], stage)

        return Attacked(*in_micro_batches(work, len(images), size))

    def _attack(self, attack: Attack, items: list[int], stage: int) -> tuple[Tensor, ...]:
        canvases = self._canvases[items].to(self._device)
        labels = self._labels[items].to(self._device)
        targets = None if self.goal.targets is None else self.goal.targets[items].to(self._device)
        draws = Draws(self._seed, self._spec.name, [self._batch.image_ids[item] for item in items])
        surrogates = self._surrogates(draws, self._spec.precision)
        tally = surrogates.tally
        task = Batch(canvases, Goal(labels, targets), draws.at("stage", stage), self._pool, self._pool_labels)
        found = attack(surrogates, task)
        judges = self._surrogates(draws, "fp32")
        passes = torch.zeros(len(items), dtype=torch.int64)
        finite = torch.ones(len(items), dtype=torch.bool) if tally.finite is None else tally.finite.cpu()
        clean, adversarial = (_probabilities(judges, each) for each in (canvases, found.canvases))
        return (
            found.canvases.cpu(),
            torch.full((len(items),), torch.nan) if found.norms is None else found.norms.cpu(),
            finite & ~(clean + adversarial).isnan().any(dim=1),
            passes + tally.forwards,
            passes + tally.backwards,
            clean,
            adversarial,
        )

    def _surrogates(self, draws: Draws, precision: Precision) -> Surrogates:
        spec = self._spec
        judging = draws.at("judging")
        return Surrogates(
            self._classifiers,
            VIEWS[spec.view],
            self._field,
            spec.fuse,
            defense=[differentiable(spec.defense, judging.at("repeat", n)) for n in range(spec.defense.repeats)],
            redraw=partial(differentiable, spec.defense) if spec.defense.random else None,
            precision=precision,
        )


def _probabilities(surrogates: Surrogates, canvases: Tensor) -> Tensor:
    with torch.inference_mode():
        return surrogates.logits(canvases.float() / WHITE).softmax(dim=1).cpu()


def _with(attacked: Attacked, items: list[int], again: Attacked) -> Attacked:
    """Some images' results replaced by those of a later stage, with the passes of both."""
    replaced = {each.name: getattr(attacked, each.name).clone() for each in fields(Attacked)}
    for name, values in replaced.items():
        before = values[items]
        values[items] = getattr(again, name)
        if name in {"forwards", "backwards"}:
            values[items] += before
    return Attacked(**replaced)


def attack_rows(spec: AttackSpec, seed: int, batch: CanvasBatch, attacked: Attacked) -> list[dict[str, Any]]:
    """Rows of `attacks` for the images whose gradients were finite."""
    goal = Goal(torch.tensor(batch.labels), None if spec.target is None else torch.tensor(spec.target))
    reached = goal.reached(attacked.adversarial).tolist()
    clean_confidence, clean_predicted = attacked.clean.max(dim=1)
    confidence, predicted = attacked.adversarial.max(dim=1)
    attack = spec.build()
    rows = []
    for item in attacked.finite.nonzero().flatten().tolist():
        canvas = attacked.canvases[item].numpy()
        norm = float(attacked.norms[item])
        rows.append(
            {
                "image_id": batch.image_ids[item],
                "recipe": spec.recipe,
                "surrogates": list(spec.surrogates),
                "fuse": spec.fuse if len(spec.surrogates) > 1 else None,
                "view": spec.view,
                "through": spec.defense.name,
                "objective": dict(spec.parameters).get("objective"),
                "label": batch.labels[item],
                "target": spec.target,
                "norm": spec.norm,
                "eps": spec.eps,
                "steps": attack.steps,
                "seed": seed,
                "clean_predicted": int(clean_predicted[item]),
                "clean_confidence": float(clean_confidence[item]),
                "adversarial_predicted": int(predicted[item]),
                "adversarial_confidence": float(confidence[item]),
                "success": reached[item],
                "minimal_norm": None if math.isnan(norm) else norm,
                **distances(batch.pixels[item], canvas),
                "out_of_band": None if attack.band is None else _leaked(attack.band, batch.pixels[item], canvas),
                "forwards": int(attacked.forwards[item]),
                "backwards": int(attacked.backwards[item]),
                "canvas_sha256": canvas_sha256(canvas),
            }
        )
    return rows


def _leaked(band: Band, clean: Pixels, adversarial: Pixels) -> float:
    return float(leaked(band, torch.from_numpy(adversarial.astype(float) - clean)[None]))


class AttackImages(beam.DoFn):
    """Work -> a reference to the chunk's canvases under each of the work's attacks, all stored by then. Idempotent."""

    def __init__(
        self,
        setting: Setting,
        attacks: Sequence[AttackSpec],
        pool: Sequence[ImageRef],
    ) -> None:
        """`pool` holds the images that attacks may mix in."""
        self._setting = setting
        self._attacks = tuple(attacks)
        self._pool = tuple(pool)
        self._pool_read: CanvasBatch | None = None

    def setup(self) -> None:
        prepare_torch()

    def process(self, work: Work) -> Iterator[Canvases]:
        clean = Canvases(work.chunk, CLEAN)
        if CLEAN in work.attacks:
            yield clean
        batch: CanvasBatch | None = None
        for spec in self._attacks:
            if spec.name in work.attacks:
                if not self._done(work.chunk, spec):
                    batch = batch or read_canvases(self._setting.store, clean)
                    self._attack(batch, spec, work.chunk)
                yield Canvases(work.chunk, spec.name)

    def _pictures(self) -> CanvasBatch | None:
        """Of the pool, read once for all chunks: those that can be, and do not kill."""

        def work(some: Sequence[int]) -> CanvasBatch | None:
            return read_batch([self._pool[each] for each in some], self._setting.canvas)

        if self._pool_read is None:
            ids = [ref.image_id for ref in self._pool]
            _, self._pool_read = guarded(self._setting.store, "pool", ids, work)
        return self._pool_read

    def _done(self, chunk: Chunk, spec: AttackSpec) -> bool:
        return all(self._setting.store.has(part) for part in attack_parts(chunk.index, spec.name))

    def _attack(self, batch: CanvasBatch, spec: AttackSpec, chunk: Chunk) -> None:
        setting = self._setting
        failures_at, canvases_at, attacks_at = attack_parts(chunk.index, spec.name)
        rows: list[dict[str, Any]] = []
        canvases: list[Pixels] = []
        failures: list[dict[str, Any]] = []
        if batch.labels:
            classifiers = [setting.models[name] for name in spec.surrogates]
            pool = self._pictures() if spec.build().pooled else None
            field, seed = setting.canvas.field, setting.seed

            def work(some: Sequence[int]) -> Attacked:
                return attack_batch(spec, classifiers, field, batch.take(some), seed, setting.micro_batch, pool)

            kept, attacked = guarded(setting.store, attacks_at.path, batch.image_ids, work)
            failures = death_rows(batch.image_ids, kept)
            if attacked is not None:
                rows = attack_rows(spec, seed, batch.take(kept), attacked)
                canvases = list(attacked.canvases[attacked.finite].numpy())
                broken = [batch.image_ids[each] for each, fine in zip(kept, attacked.finite, strict=True) if not fine]
                reason = "a gradient or an answer of the surrogates is not finite"
                failures += [failure_row(each, "FloatingPointError", reason) for each in broken]
        setting.store.publish(failures_at, rows_table("failures", failures))
        setting.store.publish(canvases_at, canvas_table([row["image_id"] for row in rows], canvases))
        setting.store.publish(attacks_at, rows_table("attacks", rows))
