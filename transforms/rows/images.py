"""Rows of `images`: what an image is, and the digest of its bytes."""

import hashlib
from typing import Any

from transforms.data.chunks import ImageRef
from transforms.data.classes import class_name
from transforms.data.decode import Decoded


def image_row(ref: ImageRef, data: bytes, decoded: Decoded) -> dict[str, Any]:
    """A row of `images`, but for its label.

    Args:
        data: the encoded bytes.
    """
    return {
        "image_id": ref.image_id,
        "uri": ref.uri,
        "width": decoded.width,
        "height": decoded.height,
        "bytes_sha256": hashlib.sha256(data).hexdigest(),
    }


def labelled(row: dict[str, Any], label: int, by: str | None = None) -> dict[str, Any]:
    """A row of `images` with its label, 0–999, and the model whose prediction that is, if it was not given."""
    return {**row, "label": label, "label_name": class_name(label), "labelled_by": by}
