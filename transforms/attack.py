"""Attacking: stored clean canvases become stored adversarial canvases and rows of `attacks`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import torch
from torch import Tensor

from transforms.attacks.balls import BALLS, LEVELS
from transforms.attacks.objectives import OBJECTIVES, Goal
from transforms.attacks.randomness import Draws
from transforms.attacks.recipes import RECIPES, Attack
from transforms.attacks.surrogates import Fusion, Surrogates
from transforms.canvases import CanvasBatch, Canvases, Pixels, canvas_sha256, canvas_table, read_canvases
from transforms.chunks import Chunk, Work
from transforms.distances import distances
from transforms.held_models import HeldModels, prepare_torch
from transforms.models.batches import in_micro_batches, micro_batch
from transforms.models.classifier import Classifier
from transforms.models.views import VIEWS
from transforms.store import CLEAN, Store, attack_parts
from transforms.tables import failure_row, rows_table


@dataclass(frozen=True)
class AttackSpec:
    """An attack of an experiment, fully named: small and picklable.

    Attributes:
        name: as the experiment calls it.
        recipe, objective, norm: names in `RECIPES`, `OBJECTIVES`, `BALLS`.
        parameters: the recipe's own, by name.
        surrogates: names of models.
        fuse, view: how surrogates are combined and look at a canvas.
        eps: budget in the unit of [0, 1] pixels.
        target: class wanted by a targeted attack, 0–999, or None.
    """

    name: str
    recipe: str
    parameters: tuple[tuple[str, Any], ...]
    surrogates: tuple[str, ...]
    fuse: Fusion
    view: str
    objective: str
    norm: str
    eps: float
    target: int | None

    def build(self) -> Attack:
        """Makes the attack; raises InputError for a parameter out of its range."""
        ball = BALLS[self.norm](self.eps)
        return RECIPES[self.recipe].make(ball, OBJECTIVES[self.objective], **dict(self.parameters))


@dataclass(frozen=True)
class Attacked:
    """What an attack made of a batch of N images; CPU tensors.

    Attributes:
        canvases: uint8 (N, 3, S, S).
        finite: bool (N,); where False the model's gradient was not finite and the canvas means nothing.
        forwards, backwards: int (N,), passes of one network over one window that the attack took.
        clean, adversarial: float (N, classes), the fused surrogates' probabilities for the stored canvases.
    """

    canvases: Tensor
    finite: Tensor
    forwards: Tensor
    backwards: Tensor
    clean: Tensor
    adversarial: Tensor


def attack_batch(
    spec: AttackSpec, classifiers: Sequence[Classifier], field: float, batch: CanvasBatch, seed: int, size: int
) -> Attacked:
    """Attacks stored canvases, at least one, in micro-batches of `size`.

    Args:
        classifiers: the surrogates, in the order of `spec.surrogates`, on one device.
        field: the part of the images' centre squares that the canvases hold, in (0, 1].
    """
    attack = spec.build()
    device = classifiers[0].device
    labels = torch.tensor(batch.labels)

    def surrogates() -> Surrogates:
        return Surrogates(classifiers, VIEWS[spec.view], field, spec.fuse)

    def probabilities(canvases: Tensor) -> Tensor:
        with torch.inference_mode():
            return surrogates().logits(canvases.float() / LEVELS).softmax(dim=1).cpu()

    def work(items: list[int]) -> tuple[Tensor, ...]:
        canvases = torch.from_numpy(batch.pixels[items]).to(device)
        targets = None if spec.target is None else torch.full((len(items),), spec.target, device=device)
        draws = Draws(seed, spec.name, [batch.image_ids[item] for item in items])
        attacked = surrogates()
        adversarial = attack(attacked, canvases, Goal(labels[items].to(device), targets), draws)
        finite = torch.ones(len(items), dtype=torch.bool) if attacked.finite is None else attacked.finite.cpu()
        return (
            adversarial.cpu(),
            finite,
            torch.full((len(items),), attacked.forwards),
            torch.full((len(items),), attacked.backwards),
            probabilities(canvases),
            probabilities(adversarial),
        )

    return Attacked(*in_micro_batches(work, len(batch.labels), size))


def attack_rows(spec: AttackSpec, seed: int, batch: CanvasBatch, attacked: Attacked) -> list[dict[str, Any]]:
    """Rows of `attacks` for the images whose gradients were finite."""
    goal = Goal(torch.tensor(batch.labels), None if spec.target is None else torch.tensor(spec.target))
    reached = goal.reached(attacked.adversarial).tolist()
    clean_confidence, clean_predicted = attacked.clean.max(dim=1)
    confidence, predicted = attacked.adversarial.max(dim=1)
    steps = spec.build().steps
    rows = []
    for item in attacked.finite.nonzero().flatten().tolist():
        canvas = attacked.canvases[item].numpy()
        rows.append(
            {
                "image_id": batch.image_ids[item],
                "recipe": spec.recipe,
                "surrogates": list(spec.surrogates),
                "objective": spec.objective,
                "label": batch.labels[item],
                "target": spec.target,
                "norm": spec.norm,
                "eps": spec.eps,
                "steps": steps,
                "seed": seed,
                "clean_predicted": int(clean_predicted[item]),
                "clean_confidence": float(clean_confidence[item]),
                "adversarial_predicted": int(predicted[item]),
                "adversarial_confidence": float(confidence[item]),
                "success": reached[item],
                **distances(batch.pixels[item], canvas),
                "forwards": int(attacked.forwards[item]),
                "backwards": int(attacked.backwards[item]),
                "canvas_sha256": canvas_sha256(canvas),
            }
        )
    return rows


class AttackImages(beam.DoFn):
    """Work -> a reference to the chunk's canvases under each of the work's attacks, all stored by then. Idempotent."""

    def __init__(
        self,
        store: Store,
        attacks: Sequence[AttackSpec],
        models: HeldModels,
        field: float,
        seed: int,
        chunk_size: int,
    ) -> None:
        self._store = store
        self._attacks = tuple(attacks)
        self._models = models
        self._field = field
        self._seed = seed
        self._chunk_size = chunk_size

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
                    batch = batch or read_canvases(self._store, clean)
                    self._attack(batch, spec, work.chunk)
                yield Canvases(work.chunk, spec.name)

    def _done(self, chunk: Chunk, spec: AttackSpec) -> bool:
        return all(self._store.has(part) for part in attack_parts(chunk.index, spec.name))

    def _attack(self, batch: CanvasBatch, spec: AttackSpec, chunk: Chunk) -> None:
        rows: list[dict[str, Any]] = []
        canvases: list[Pixels] = []
        failures: list[dict[str, Any]] = []
        if batch.labels:
            classifiers = [self._models[name] for name in spec.surrogates]
            size = micro_batch(self._models.device, self._chunk_size)
            attacked = attack_batch(spec, classifiers, self._field, batch, self._seed, size)
            rows = attack_rows(spec, self._seed, batch, attacked)
            canvases = list(attacked.canvases[attacked.finite].numpy())
            broken = [image_id for image_id, kept in zip(batch.image_ids, attacked.finite, strict=True) if not kept]
            failures = [failure_row(each, "FloatingPointError", "a gradient is not finite") for each in broken]
        failures_at, canvases_at, attacks_at = attack_parts(chunk.index, spec.name)
        self._store.publish(failures_at, rows_table("failures", failures))
        self._store.publish(canvases_at, canvas_table([row["image_id"] for row in rows], canvases))
        self._store.publish(attacks_at, rows_table("attacks", rows))
