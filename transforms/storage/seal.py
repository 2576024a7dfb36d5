"""Seals: a Parquet file carries the SHA-256 of its own bytes, so that any damage to it can be seen."""

import io
from collections.abc import Iterable, Mapping
from hashlib import sha256
from itertools import chain

import pyarrow as pa
import pyarrow.parquet as pq

_KEY, _MARK = "seal", b"megalith-sha256:"
_BLANK = b"0" * 64


def sealed(rows: pa.Table, more: Iterable[pa.Table] = (), *, notes: Mapping[str, str] | None = None) -> bytes:
    """A table as a Parquet file whose footer holds, under the key `seal`, the digest of the file.

    The digest is of the file with 64 zeros in the digest's place. Any reader of Parquet reads the file. Each page has a
    checksum of its own besides, for a reader of one row group.

    Args:
        more: tables with the same columns that follow it, in row groups of their own; each is asked for when the one
            before it is written.
        notes: what else the footer holds.
    """
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, rows.schema, compression="zstd", write_page_checksum=True) as writer:
        for each in chain([rows], more):
            writer.write_table(each)
        if notes:
            writer.add_key_value_metadata(notes)
        writer.add_key_value_metadata({_KEY: (_MARK + _BLANK).decode()})
    blank = buffer.getvalue()
    buffer.seek(blank.rindex(_MARK) + len(_MARK))
    digest = sha256(blank).hexdigest()
    del blank  # or the buffer would be copied
    buffer.write(digest.encode())
    return buffer.getvalue()


def is_whole(content: bytes) -> bool:
    """Whether a file is, byte for byte, what was sealed."""
    # Nothing of the rows comes after the seal: Parquet has its statistics before.
    mark = content.rfind(_MARK)
    if mark < 0:
        return False
    place = mark + len(_MARK)
    digest = sha256(memoryview(content)[:place])
    digest.update(_BLANK)
    digest.update(memoryview(content)[place + len(_BLANK) :])
    return content[place : place + len(_BLANK)] == digest.hexdigest().encode()
