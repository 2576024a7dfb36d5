"""Seals: a Parquet file carries the SHA-256 of its own bytes, so that any damage to it can be seen."""

import io
from hashlib import sha256

import pyarrow as pa
import pyarrow.parquet as pq

_MAGIC = b"PAR1"
_SHORTEST = 12  # bytes: the magic twice, and the length of the footer between
_KEY, _MARK = "seal", b"megalith-sha256:"
_BLANK = b"0" * 64


def sealed(rows: pa.Table) -> bytes:
    """A table as a Parquet file whose footer holds, under the key `seal`, the digest of the file.

    The digest is of the file with 64 zeros in the digest's place. Any reader of Parquet reads the file.
    """
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, rows.schema, compression="zstd") as writer:
        writer.write_table(rows)
        writer.add_key_value_metadata({_KEY: (_MARK + _BLANK).decode()})
    blank = buffer.getvalue()
    place = _place(blank)
    return blank[:place] + sha256(blank).hexdigest().encode() + blank[place + len(_BLANK) :]


def is_whole(content: bytes) -> bool:
    """Whether a Parquet file is what was sealed; of one without a seal, whether it begins and ends as one."""
    if not (len(content) >= _SHORTEST and content.startswith(_MAGIC) and content.endswith(_MAGIC)):
        return False
    place = _place(content)
    if place < len(_MARK):
        return True
    digest = sha256(memoryview(content)[:place])
    digest.update(_BLANK)
    digest.update(memoryview(content)[place + len(_BLANK) :])
    return content[place : place + len(_BLANK)] == digest.hexdigest().encode()


def _place(content: bytes) -> int:
    """Where the digest stands. Nothing of the rows comes after it: Parquet has its statistics before."""
    return content.rfind(_MARK) + len(_MARK)
