"""What takes seconds to find out, and is the same until something is installed: kept in the user's cache folder."""

import json
from collections.abc import Callable
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Any

from transforms import cache

_PACKAGES = ("pipeline", "transforms")
_LIBRARIES = ("adv-lib", "foolbox", "keras", "timm", "torch", "torchattacks", "torchvision")
_PLUG_INS = ("megalith.attacks", "megalith.defenses", "megalith.models")


def remembered(name: str, find: Callable[[], Any]) -> Any:
    """What `find` gives, as plain JSON, found once for each state of our code and of the libraries that it lists.

    Where plug-ins are installed it is found each time, because they may change under their author's hands.
    """
    if any(entry_points(group=group) for group in _PLUG_INS):
        return find()
    kept = f"lists/{sha256(f'{name} {_state()}'.encode()).hexdigest()}.json"
    if (content := cache.read(kept)) is not None:
        return json.loads(content)
    found = find()
    cache.write(kept, json.dumps(found).encode())
    return found


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
