"""What takes seconds to find out, and is the same until something is installed: kept in the user's cache folder."""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Any
from uuid import uuid4

_PACKAGES = ("pipeline", "transforms")
_LIBRARIES = ("adv-lib", "foolbox", "keras", "timm", "torch", "torchattacks", "torchvision")
_PLUG_INS = ("megalith.attacks", "megalith.defenses", "megalith.models")


def remembered(name: str, find: Callable[[], Any]) -> Any:
    """What `find` gives, as plain JSON, found once for each state of our code and of the libraries that it lists.

    Where plug-ins are installed it is found each time, because they may change under their author's hands. A cache that
    cannot be read or written is no error.
    """
    if any(entry_points(group=group) for group in _PLUG_INS):
        return find()
    path = _folder() / f"{sha256(f'{name} {_state()}'.encode()).hexdigest()}.json"
    with suppress(OSError, ValueError):
        return json.loads(path.read_text())
    found = find()
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{uuid4().hex}.tmp")
        temporary.write_text(json.dumps(found))
        temporary.replace(path)
    return found


def _folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser(), "megalith")


def _state() -> str:
    """Whatever a list may depend on."""
    root = Path(__file__).parents[2]
    files = sorted(file for package in _PACKAGES for file in (root / package).rglob("*.py"))
    seen = [(str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files]
    return repr((seen, [_version(each) for each in _LIBRARIES]))


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return ""
