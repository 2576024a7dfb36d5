"""Verification: everything that can be checked of a run directory."""

from collections.abc import Iterator

from pipeline.results.tables import open_run
from pipeline.run.lock import at_work
from pipeline.verify.replay import check_images, check_labels, check_predictions
from pipeline.verify.tables import (
    Check,
    check_agreement,
    check_canvases,
    check_definitions,
    check_files,
    check_plan,
    check_rows,
)
from pipeline.verify.targets import check_targets
from transforms.errors import InputError
from transforms.models.device import torch_device
from transforms.steps.process import prepare_numerics


def verify(path: str, sample: int, device: str) -> Iterator[Check]:
    """Checks a run directory, one thing after the other; where files are damaged, nothing but that. Writes nothing.

    Args:
        sample: how many images and predictions, drawn anew each time, are made again.
        device: auto, cpu or cuda.

    Raises:
        InputError: there is no run at `path`, one is at work in it, or there is no such device.
    """
    torch_device(device)
    run = open_run(path)
    if found := at_work(run.store):
        verb = "is" if len(found) == 1 else "are"
        raise InputError(f"{path}: {', '.join(found)} {verb} at work in it; verify it when that has ended")
    prepare_numerics(run.record.definitions.numerics)
    files = check_files(run)
    yield files
    if not files.wrong:
        yield check_plan(run)
        yield check_rows(run)
        yield check_agreement(run)
        yield check_definitions(run)
        yield check_canvases(run)
        yield check_images(run, sample)
        yield check_predictions(run, sample, device)
        yield check_labels(run, sample, device)
        yield check_targets(run, sample, device)
