"""Progress: a bar fed by the parts that appear in the run directory, the same on every runner."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tqdm import tqdm

from pipeline.run.plan import Tasks
from transforms.storage.store import Store

_QUICKEST = 0.5
"""Seconds between two looks at the run directory, at least."""
_SHARE = 0.02
"""Part of the time that looking may take."""
_LAST_LOOK = 10.0
"""Seconds that the last look may take; a store that went away is not waited for."""


@contextmanager
def progress_bar(store: Store, missing: Tasks, title: str) -> Iterator[None]:
    """Shows how much of the missing work is done, with an estimate of the time left, while the body runs.

    Work is measured in network passes, so that a slow attack and a quick prediction count as what they cost.
    """
    total = _weight(missing)
    stop = threading.Event()
    with tqdm(total=total, desc=title, unit="pass", unit_scale=True, mininterval=_patience()) as bar:
        watcher = threading.Thread(target=_watch, args=(store, missing, bar, stop), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            stop.set()
            watcher.join(_LAST_LOOK)


def _patience() -> float:
    """Seconds between two states of the bar: a log file needs fewer than a terminal."""
    return _QUICKEST if sys.stderr.isatty() else 15.0


def _watch(store: Store, missing: Tasks, bar: "tqdm[None]", stop: threading.Event) -> None:
    pause = _QUICKEST
    last = False
    while not last:
        last = stop.wait(pause)
        started = time.monotonic()
        with suppress(OSError):  # An object store that does not answer now is asked again at the next look.
            done = _weight(missing) - _weight(missing.absent_from(store.paths()))
            bar.update(done - bar.n)
        pause = max(_QUICKEST, (time.monotonic() - started) / _SHARE)


def _weight(tasks: Tasks) -> int:
    return len(tasks) + sum(tasks.passes)
