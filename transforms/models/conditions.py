"""Conditions: what all models of a run have in common when they are shown pictures."""

from dataclasses import dataclass

import torch

from transforms.models.device import Numerics, torch_device

_MOST = {"cpu": 8, "cuda": 64}


@dataclass(frozen=True)
class Conditions:
    """What every number of a run depends on besides pictures and models. Small and picklable.

    Attributes:
        seed: of all random draws.
        field_of_view: the part of the images' centre squares that the canvases hold, in (0, 1].
        micro_batch: images that a model is shown at once, >= 1.
        device: auto, cpu or cuda; a worker resolves auto for itself.
        numerics: exact or fast.
    """

    seed: int
    field_of_view: float
    micro_batch: int
    device: str = "cpu"
    numerics: Numerics = "exact"

    @property
    def place(self) -> torch.device:
        """Where models and canvases are; raises InputError if it is not there."""
        return torch_device(self.device)


def usual_micro_batch(device: torch.device, chunk_size: int) -> int:
    """Images to show a model at once: as many as suit the device, in equal parts of a chunk."""
    return equal_parts(chunk_size, _MOST[device.type])


def equal_parts(chunk_size: int, most: int) -> int:
    """The size of the fewest equal parts of a chunk that hold no more than `most` images.

    A part that is short is filled up, so parts of 8 and 2 images would take the time of 16, not of 10.
    """
    return -(-chunk_size // -(-chunk_size // most))
