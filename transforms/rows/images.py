"""Rows of `images`: what an image is, and the digest of its bytes."""

import hashlib
from typing import Any

from transforms.data.chunks import ImageRef
from transforms.data.classes import class_name
from transforms.data.decode import Decoded


def image_row(ref: ImageRef, data: bytes, decoded: Decoded) -> dict[str, Any]:
    """A row of `images`.

    Args:
        ref: with a label, 0–999.
        data: the encoded bytes.
    """
    return {
        "image_id": ref.image_id,
        "uri": ref.uri,
        "label": ref.label,
        "label_name": class_name(ref.label),
        "width": decoded.width,
        "height": decoded.height,
        "bytes_sha256": hashlib.sha256(data).hexdigest(),
    }
