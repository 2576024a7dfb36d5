"""The process in which rows are computed."""

import warnings

import apache_beam as beam
import cv2
import torch


def prepare_numerics() -> None:
    """Makes results repeatable bit for bit, a worker one thread, and Pillow quiet. Changes the whole process.

    Kernels sum in another order with another number of threads, in TF32, and as cuDNN pleases.
    """
    torch.set_num_threads(1)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    cv2.setNumThreads(0)
    # Pillow warns on stderr about what `BadImage` reports or what does no harm. For the process, and Pillow's modules
    # alone: warnings.catch_warnings around each decode would race with other threads and could silence everybody.
    warnings.filterwarnings("ignore", module=r"PIL\.")


class Step(beam.DoFn):
    """A DoFn that prepares the process it comes to."""

    def setup(self) -> None:
        prepare_numerics()
