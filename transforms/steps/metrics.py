"""What the steps of a run count and time, as Beam's metrics; a runner sums them over its workers.

Timed work has a counter of microseconds on the wall clock (`attack_microseconds`) and one of the things done
(`attack_count`), see `TIMED`; `COUNTED` names the other counters. A runner that does a lost worker's chunk again
counts it again.
"""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from apache_beam.metrics import Metrics, MetricsFilter
from apache_beam.metrics.metric import MetricResults

NAMESPACE = "megalith"
TIMED = {
    "read": "images read, encoded ones and stored canvases",
    "decode": "images that became canvases",
    "attack": "images attacked, once per attack",
    "defend": "canvases defended, once per draw of a random defence",
    "predict": "canvases that a model was shown, once per view and draw",
    "rows": "rows made, with their PNGs and distances",
    "write": "parts published",
}
"""Timed work by name, and what its count counts."""
COUNTED = ("images_loaded", "images_failed", "attacks_made", "predictions_made", "bytes_written")


def counted(name: str, number: int) -> None:
    """Adds to a counter; outside of a pipeline, nothing happens."""
    Metrics.counter(NAMESPACE, name).inc(number)


@contextmanager
def timed(work: str, count: int) -> Iterator[None]:
    """Adds the time that the body takes, and what it does, to some timed work; nothing if it raises."""
    started = time.perf_counter_ns()
    yield
    counted(f"{work}_microseconds", (time.perf_counter_ns() - started) // 1000)
    counted(f"{work}_count", count)


def totals(results: MetricResults) -> Counter[str]:
    """All of our counters, summed over the steps of a finished pipeline."""
    found: Counter[str] = Counter()
    for each in results.query(MetricsFilter().with_namespace(NAMESPACE))[MetricResults.COUNTERS]:
        found[each.key.metric.name] += each.result or 0
    return found


def recorded(found: Counter[str]) -> dict[str, dict[str, dict[str, float]] | dict[str, int]]:
    """Totals as `run.json` keeps them: `{"steps": {"decode": {"seconds": 1.5, "count": 20}}, "counts": {…}}`."""
    steps = {
        work: {"seconds": round(found[f"{work}_microseconds"] / 1e6, 3), "count": found[f"{work}_count"]}
        for work in TIMED
        if found[f"{work}_count"]
    }
    return {"steps": steps, "counts": {name: found[name] for name in COUNTED}} if found else {}
