"""A Parquet file carries its own digest: any damage shows, and every reader still reads it."""

import hashlib
import io
from hashlib import sha256

import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.rows.failures import failure_row
from transforms.rows.tables import rows_table
from transforms.storage.seal import is_whole, sealed

ROWS = rows_table("failures", [failure_row(f"i{number}", "E", "m" * number) for number in range(50)])
CONTENT = sealed(ROWS)


def test_it_is_parquet_for_everybody() -> None:
    assert pq.read_table(io.BytesIO(CONTENT)).equals(ROWS)


def test_the_digest_is_that_of_the_file_with_zeros_in_its_place() -> None:
    """Worked out here from the footer that pyarrow shows."""
    digest = pq.read_metadata(io.BytesIO(CONTENT)).metadata[b"seal"].removeprefix(b"megalith-sha256:")
    assert CONTENT.count(digest) == 1
    assert hashlib.sha256(CONTENT.replace(digest, b"0" * 64)).hexdigest().encode() == digest


def test_the_same_rows_are_the_same_bytes() -> None:
    assert sealed(ROWS) == CONTENT
    assert sealed(ROWS.slice(1)) != CONTENT


@given(st.integers(0, len(CONTENT) - 1), st.integers(1, 255))
@settings(max_examples=500, deadline=None)
def test_no_byte_can_change_unseen(place: int, change: int) -> None:
    """Of the seal itself no more than of the rest."""
    damaged = bytearray(CONTENT)
    damaged[place] ^= change
    assert not is_whole(bytes(damaged))


def test_zeros_between_the_ends_are_seen() -> None:
    """A block of the disk that was lost with the footer in it, but not the magic at the end."""
    assert not is_whole(CONTENT[:4] + bytes(len(CONTENT) - 12) + CONTENT[-8:])


@given(st.integers(0, len(CONTENT) - 1))
@settings(max_examples=200, deadline=None)
def test_no_truncated_file_is_whole(length: int) -> None:
    assert not is_whole(CONTENT[:length])


def test_rows_that_look_like_a_seal_deceive_nobody() -> None:
    """They are in the pages and in the statistics, before the real one."""
    false = "megalith-sha256:" + sha256(b"").hexdigest()
    content = sealed(rows_table("failures", [failure_row(false, false, false, false)]))
    assert is_whole(content)
    assert not is_whole(content[:10] + bytes([content[10] ^ 1]) + content[11:])


def test_parquet_without_a_seal_is_not_ours() -> None:
    buffer = io.BytesIO()
    pq.write_table(ROWS, buffer)
    assert not is_whole(buffer.getvalue())
