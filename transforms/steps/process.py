"""The process in which rows are computed."""

import ctypes
import sys
import warnings

import apache_beam as beam
import cv2
import torch

from transforms.models.device import Numerics
from transforms.steps.context import StepContext

_MALLOPT = {-4: 0, -1: 2**31 - 1, -2: 2**28, -8: 1}
"""M_MMAP_MAX, M_TRIM_THRESHOLD and M_TOP_PAD in bytes, M_ARENA_MAX of glibc's malloc.h."""


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


def keep_memory() -> None:
    """Keeps freed memory in the process, where the C library is glibc; elsewhere does nothing.

    Each pass of a network frees and takes tens of megabytes many times. By default glibc returns blocks of that size to
    the system, which then clears every page anew: a quarter of the time of a pass (docs/performance.md).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for parameter, value in _MALLOPT.items():
            mallopt(parameter, value)


class Step(beam.DoFn):
    """A DoFn that prepares the process it comes to."""

    def __init__(self, context: StepContext) -> None:
        self._context = context

    def setup(self) -> None:
        prepare_numerics(self._context.conditions.numerics)
