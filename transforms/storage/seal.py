"""Seals: a Parquet file carries the SHA-256 of its own bytes, so that any damage to it can be seen."""

import io
from collections.abc import Mapping
from hashlib import sha256

import pyarrow as pa
import pyarrow.parquet as pq

_KEY, _MARK = "seal", b"megalith-sha256:"
_BLANK = b"0" * 64


def sealed(*row_groups: pa.Table, notes: Mapping[str, str] | None = None) -> bytes:
    """One table or more, alike, as a Parquet file whose footer holds, under the key `seal`, the digest of the file.

    The digest is of the file with 64 zeros in the digest's place. Any reader of Parquet reads the file. Each page has a
    checksum of its own besides, for a reader of one row group.

    Args:
        notes: what else the footer holds.
    """
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, row_groups[0].schema, compression="zstd", write_page_checksum=True) as writer:
        for rows in row_groups:
            writer.write_table(rows)
        if notes:
            writer.add_key_value_metadata(notes)
        writer.add_key_value_metadata({_KEY: (_MARK + _BLANK).decode()})
    blank = buffer.getvalue()
    place = blank.rindex(_MARK) + len(_MARK)
    return blank[:place] + sha256(blank).hexdigest().encode() + blank[place + len(_BLANK) :]


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
