"""Tables on object stores, as pyarrow and DuckDB read them: through Beam, whose options say how to connect."""

from dataclasses import dataclass
from typing import Any, BinaryIO

import fsspec  # type: ignore[import-untyped]
import pyarrow as pa
import pyarrow.dataset as ds

from transforms.storage.store import Store


class RemoteFiles(fsspec.AbstractFileSystem):
    """The files of a run directory on an object store."""

    cachable = False

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        return {"name": path, "type": "file"}  # only parts that were listed are asked for

    def _open(self, path: str, *_: Any, **__: Any) -> BinaryIO:
        return self._store.open(path)


def for_duckdb(dataset: ds.Dataset) -> ds.Dataset:
    """The dataset as one that is safe where its files cannot be opened."""
    if not isinstance(dataset, ds.FileSystemDataset):
        return dataset
    fragments = list(dataset.get_fragments())
    return _FromPython(fragments, dataset.schema, dataset.format, dataset.filesystem)


class _FromPython(ds.FileSystemDataset):
    """A dataset that hands DuckDB its batches one by one.

    pyarrow's own `to_reader` keeps Python's lock while it waits for the threads that open files. Where one fails, it
    wants that lock, to say what Python raised: both would wait forever.
    """

    def scanner(self, **options: Any) -> "_Scan":
        return _Scan(super().scanner(**options))


@dataclass(frozen=True)
class _Scan:
    scanner: ds.Scanner

    def to_reader(self) -> pa.RecordBatchReader:
        batches = (each.record_batch for each in self.scanner.scan_batches())
        return pa.RecordBatchReader.from_batches(self.scanner.projected_schema, batches)
