"""Encoded images in Parquet files, as Hugging Face keeps them: a column of structures of `bytes` and `path`."""

import errno
import re
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from transforms.errors import said_by
from transforms.storage import files

COLUMNS = ("image", "img", "canvas")
"""Names of the column, in the order in which they are looked for; the last is a run directory's."""
_MAX_GROUP = 2**30
"""Bytes that the images of a row group may take; Hugging Face writes some 10 MB."""


_ROW = re.compile(r"(?P<path>.+\.parquet)#row=(?P<row>[0-9]{1,12})", re.DOTALL | re.IGNORECASE)


def row_uri(path: str, row: int) -> str:
    """Names the image in a row of the Parquet file at `path`: `path#row=NUMBER`."""
    return f"{path}#row={row}"


def row_of(uri: str) -> tuple[str, int] | None:
    """The file and the row that a uri names; None for any other uri."""
    found = _ROW.fullmatch(uri)
    return (found["path"], int(found["row"])) if found else None


def image_column(schema: pa.Schema) -> str | None:
    """The column of images, as Parquet spells the part of it that holds bytes; None where there is none."""
    for name in COLUMNS:
        kind = schema.field(name).type if schema.names.count(name) == 1 else pa.null()
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            return name
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            return f"{name}.bytes"
    return None


def read_row(path: str, row: int) -> bytes:
    """The encoded image in a row of a file; raises OSError if it cannot be read, or there is none."""
    try:
        first = 0
        for group, rows in enumerate(_row_groups(path)):
            if row < first + rows:
                data = _images(path, group)[row - first].as_py()
                if data is None:
                    raise OSError(errno.ENODATA, f"row {row} holds no bytes of an image, perhaps a path only", path)
                return bytes(data)
            first += rows
    except (pa.ArrowException, ValueError) as error:
        raise OSError(errno.EINVAL, f"is no Parquet file of images: {said_by(error)}", path) from error
    raise OSError(errno.ENODATA, f"has {first} rows, and none is number {row}", path)


@lru_cache(256)
def _row_groups(path: str) -> tuple[int, ...]:
    """How many rows each row group has."""
    with files.open_to_read(path) as file:
        metadata = pq.ParquetFile(file).metadata
        return tuple(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))


@lru_cache(2)  # Images are asked for one by one, mostly in the order of their rows.
def _images(path: str, group: int) -> pa.ChunkedArray:
    with files.open_to_read(path) as file:
        parquet = pq.ParquetFile(file)
        column = image_column(parquet.schema_arrow)
        if column is None:
            raise ValueError(f"it has no column {' or '.join(COLUMNS)} of images")
        size = _size(parquet.metadata.row_group(group), column)
        if size > _MAX_GROUP:
            raise OSError(errno.EFBIG, f"row group {group} holds {size} bytes of images, at most {_MAX_GROUP} do", path)
        found = parquet.read_row_group(group, columns=[column]).column(0)
        return pa.chunked_array([found.combine_chunks().field("bytes")]) if "." in column else found


def _size(group: Any, column: str) -> int:
    places = range(group.num_columns)
    return sum(
        group.column(place).total_uncompressed_size for place in places if group.column(place).path_in_schema == column
    )
