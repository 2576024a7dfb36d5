"""What all steps of an experiment have in common."""

from dataclasses import dataclass

from transforms.data.decode import CanvasSpec
from transforms.models.batches import micro_batch
from transforms.steps.held_models import HeldModels
from transforms.storage.store import Store


@dataclass(frozen=True)
class Setting:
    """Where an experiment's steps read and write, and what all of them go by. Small and picklable.

    Attributes:
        store: the run directory.
        models: at least those that the steps ask.
        canvas: how images become canvases.
        seed: of all random draws.
        chunk_size: images per chunk.
    """

    store: Store
    models: HeldModels
    canvas: CanvasSpec
    seed: int
    chunk_size: int

    @property
    def micro_batch(self) -> int:
        """Images that a model is shown at once."""
        return micro_batch(self.models.device, self.chunk_size)
