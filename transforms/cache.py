"""The cache folder: what takes seconds to make and may be deleted at any time. Many processes use it at once.

It is `$MEGALITH_CACHE`, or else `megalith` in `$XDG_CACHE_HOME` (`~/.cache`). Where it cannot be read or written,
everything is made anew each time.
"""

import os
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

MOST_BYTES = 4 * 2**30
"""Beyond these, files that were not used for longest are deleted."""
_DIGEST = sha256().digest_size


def read(name: str) -> bytes | None:
    """What was written under a name; None where nothing was, or where it is no longer, byte for byte, what it was."""
    path = _folder() / name
    with suppress(OSError):
        found = path.read_bytes()
        digest, content = found[:_DIGEST], found[_DIGEST:]
        if sha256(content).digest() == digest:
            os.utime(path)
            return content
    return None


def write(name: str, content: bytes) -> None:
    """Keeps something under a name, whole or not at all."""
    path = _folder() / name
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            temporary.write_bytes(sha256(content).digest() + content)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        _make_room()


def _folder() -> Path:
    given = os.environ.get("MEGALITH_CACHE")
    return Path(given or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "megalith")).expanduser()


def _make_room() -> None:
    """Temporary files, too, which a process that was killed has left."""
    states = [(file, file.stat()) for file in _folder().rglob("*") if file.is_file()]
    left = MOST_BYTES
    for file, state in sorted(states, key=lambda each: each[1].st_mtime, reverse=True):
        left -= state.st_size
        if left < 0:
            file.unlink(missing_ok=True)
