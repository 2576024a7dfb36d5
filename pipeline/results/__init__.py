"""Reading a run directory: `open_run`. Neither torch nor Beam is imported, unless the run is on an object store."""

from pipeline.results.tables import Run, open_run

__all__ = ["Run", "open_run"]
