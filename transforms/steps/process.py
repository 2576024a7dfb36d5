"""The process in which rows are computed."""

import warnings

import apache_beam as beam
import cv2
import torch

from transforms.memory import keep_memory
from transforms.models.device import Numerics
from transforms.steps.context import StepContext


def prepare_numerics(numerics: Numerics = "exact") -> None:
    """Makes a worker one thread that keeps its memory, and Pillow quiet. Changes the whole process.

    Args:
        numerics: `exact` makes results repeatable bit for bit: kernels sum in another order with another number of
            threads, in TF32, and as cuDNN pleases. `fast` lets a GPU have TF32 and cuDNN its choice.
    """
    fast = numerics == "fast"
    torch.set_num_threads(1)
    torch.backends.cudnn.deterministic = not fast
    torch.backends.cudnn.benchmark = fast
    torch.backends.cudnn.allow_tf32 = fast
    torch.backends.cuda.matmul.allow_tf32 = fast
    cv2.setNumThreads(0)
    keep_memory()
    # Pillow warns on stderr about what `BadImage` reports or what does no harm. For the process, and Pillow's modules
    # alone: warnings.catch_warnings around each decode would race with other threads and could silence everybody.
    warnings.filterwarnings("ignore", module=r"PIL\.")


class Step(beam.DoFn):
    """A DoFn that prepares the process it comes to."""

    def __init__(self, context: StepContext) -> None:
        self._context = context

    def setup(self) -> None:
        prepare_numerics(self._context.conditions.numerics)
