"""Rows of `failures`: an image that has no row where it should have one, and why."""

from collections.abc import Iterable, Sequence
from typing import Any


def failure_row(
    image_id: str, error_type: str, message: str, uri: str | None = None, attempt: int = 1
) -> dict[str, Any]:
    """A row of `failures`.

    Args:
        uri: where the image was to be read, if reading it failed.
        attempt: 1, because what fails is not tried again; more for an image that ended processes.
    """
    return {"image_id": image_id, "uri": uri, "error_type": error_type, "message": message, "attempt": attempt}


def not_finite_rows(image_ids: Sequence[str], finite: Iterable[bool], message: str) -> list[dict[str, Any]]:
    """Rows of `failures` for the images where `finite` is False."""
    broken = [each for each, fine in zip(image_ids, finite, strict=True) if not fine]
    return [failure_row(each, "FloatingPointError", message) for each in broken]
