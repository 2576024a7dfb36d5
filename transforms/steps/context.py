"""What all steps of a run have in common."""

from dataclasses import dataclass

from transforms.data.decode import CanvasSpec
from transforms.models.conditions import Conditions
from transforms.models.lpips import Lpips
from transforms.steps.held_models import HeldModels
from transforms.storage.store import Store


@dataclass(frozen=True)
class StepContext:
    """Where the steps of a run read and write, and what all of them go by. Small and picklable.

    Attributes:
        store: the run directory.
        models: at least those that the steps ask.
        canvas: how images become canvases.
        conditions: under which models are asked.
        labeller: the model whose predictions are the labels; None where images have theirs.
        lpips: measures the distances of the column; None where it stays empty.
    """

    store: Store
    models: HeldModels
    canvas: CanvasSpec
    conditions: Conditions
    labeller: str | None = None
    lpips: Lpips | None = None
