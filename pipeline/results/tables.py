"""Reading a run directory: tables as pandas frames, SQL over them, and success rates under each denominator."""

import re
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from tempfile import gettempdir
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from pipeline.results import findings
from pipeline.results.record import RUN_JSON, RunRecord, own_files, read_record, strangers, unfinished
from pipeline.results.views import MEANINGS, VIEWS, classes
from transforms.errors import InputError, said_by, unknown
from transforms.rows.parts import superseded
from transforms.rows.tables import TABLES
from transforms.storage.files import absolute, is_remote
from transforms.storage.preflight import reach
from transforms.storage.store import Store

if TYPE_CHECKING:  # pandas takes a second to import, and SQL answers without
    import pandas as pd

T = TypeVar("T")
SCHEMA = ["table", "column", "type", "meaning"]
_MENDED = "if a part is damaged, `megalith verify` names it, and running the experiment again makes it anew"


class Run:
    """A run directory, finished or not. Each table of `transforms.tables` is an attribute, as a pandas frame."""

    def __init__(self, path: str) -> None:
        """Raises InputError if there is no run at `path`, or its object store cannot be asked."""
        self.store = Store(absolute(path))
        reach("run directory", self.store.root)
        record = read_record(self.store)
        if record is None:
            raise InputError(f"{path!r} is not a run directory: it has no {RUN_JSON}")
        self.record: RunRecord = record
        self._kept: duckdb.DuckDBPyConnection | None = None

    def __getattr__(self, table: str) -> "pd.DataFrame":
        if table not in TABLES:
            raise AttributeError(f"a run has no {table!r}; its tables are {', '.join(TABLES)}")
        return self.read(table)

    def read(
        self, table: str, columns: Sequence[str] | None = None, where: ds.Expression | None = None
    ) -> "pd.DataFrame":
        """Reads a table, or the part of it that is wanted: neither other columns nor other files are opened.

        Args:
            columns: names of columns, or None for all.
            where: a filter such as `pyarrow.dataset.field("attack") == "mi4"`.
        """
        try:
            return self.dataset(table).to_table(columns=columns, filter=where).to_pandas()
        except pa.ArrowException as error:
            raise InputError(f"{table}: {said_by(error).rstrip('.')}; {_MENDED}") from None

    def dataset(self, table: str) -> ds.Dataset:
        """A table as a lazy Arrow dataset; raises InputError for an unknown one."""
        if table not in TABLES:
            raise unknown("table", table, TABLES)
        return self._dataset(table, self._paths())

    def _paths(self) -> set[str]:
        """The run's own files, without those whose rows stand in a compacted one as well."""
        paths = self.store.paths()
        own = own_files(self.record.definitions, paths)
        others = strangers(paths, own)
        if others:
            named = f"{min(others)} among them" if len(others) > 1 else min(others)
            passed_over = f"{len(others)} files that are not this run's own are passed over"
            warnings.warn(f"{self.store.root}: {passed_over}: {named}", stacklevel=1)
        wanted = own - superseded(own)
        if said := unfinished(self.record, wanted):
            warnings.warn(f"{self.store.root}: {said}", stacklevel=1)
        return wanted

    def _dataset(self, table: str, paths: Collection[str]) -> ds.Dataset:
        schema = TABLES[table].schema
        parts = sorted(path for path in paths if path.startswith(f"{table}/"))
        if not parts:
            return ds.dataset(schema.empty_table())
        partitions = pa.schema([schema.field(name) for name in TABLES[table].partitions])
        partitioning = ds.partitioning(partitions, flavor="hive")
        root = self.store.root
        files = _remote().RemoteFiles(self.store) if is_remote(root) else SubTreeFileSystem(root, LocalFileSystem())
        return ds.dataset(parts, schema=schema, filesystem=files, partitioning=partitioning, partition_base_dir=table)

    def sql(self, query: str) -> "pd.DataFrame":
        """Answers a query in DuckDB's SQL over the tables and views of `schema`; raises InputError if it is wrong."""
        return self._answer(query, lambda answer: answer.df())

    def rows(self, query: str, files: Sequence[str] = ()) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Like `sql`, as the names of columns and plain Python values, null as None.

        Args:
            files: paths of CSV, JSON or Parquet files that the query may read as well, as in `from 'my/labels.csv'`.
        """
        return self._answer(query, lambda answer: (answer.columns, answer.fetchall()), files)

    def schema(self) -> list[tuple[str, str, str, str]]:
        """The columns of all tables and views, each with `SCHEMA`: its type is SQL's."""
        _, found = self.rows("select table_name, column_name, data_type from information_schema.columns")
        types = {(table, column): kind for table, column, kind in found}
        return [
            (table, column, types[table, column], meaning)
            for table, meanings in MEANINGS.items()
            for column, meaning in meanings.items()
        ]

    @contextmanager
    def asked_at_once(self) -> Iterator[None]:
        """All queries in the body see the files that are there now, for the price of one look at the run directory."""
        with self._connected(self._paths()) as connection:
            self._kept = connection
            try:
                yield
            finally:
                self._kept = None

    def _answer(self, query: str, fetched: Callable[[duckdb.DuckDBPyRelation], T], files: Sequence[str] = ()) -> T:
        """What is fetched of a query's answer; raises InputError if it is wrong."""
        try:
            if self._kept is not None and not files:
                # A file may have gone meanwhile, and a wrong query breaks off the transaction: it is asked anew.
                with suppress(duckdb.Error):
                    return fetched(_asked(self._kept, query))
            return self._anew(query, fetched, files)
        except duckdb.Error as error:
            # Where a part cannot be read, Arrow adds a traceback.
            reason, _, _ = str(error).partition(" Detail: Python exception:")
            raise InputError(f"sql: {_with_a_hint(reason, query)}") from None
        except RuntimeError as error:
            # Whatever a signal's handler raises while DuckDB is at work, it says this instead.
            if str(error) != "Query interrupted":
                raise
            raise KeyboardInterrupt from None

    def _anew(self, query: str, fetched: Callable[[duckdb.DuckDBPyRelation], T], files: Sequence[str]) -> T:
        """The answer from the files that are there now. A run at work may put some of them together meanwhile."""
        while True:
            paths = self._paths()
            try:
                with self._connected(paths, files) as connection:
                    return fetched(_asked(connection, query))
            except (duckdb.Error, FileNotFoundError) as error:
                unread = isinstance(error, FileNotFoundError) or _READING in str(error)
                if not unread or paths <= self.store.paths():
                    raise

    @contextmanager
    def _connected(self, paths: set[str], files: Sequence[str] = ()) -> Iterator[duckdb.DuckDBPyConnection]:
        """A database of the tables in `paths`, views and files, which from now on is only read."""
        # What does not fit into memory is put aside; by default where the user is, and under one name for all.
        aside = f"{gettempdir()}/megalith-{uuid4().hex}"
        with duckdb.connect(config={"temp_directory": aside}) as connection:
            for table in TABLES:
                connection.register(table, self._for_duckdb(self._dataset(table, paths)))
            connection.register("classes", classes())
            for name, view in VIEWS.items():
                connection.execute(f"create view {name} as {view.sql}")
            for path in files:
                _take_in(connection, path)
            with suppress(duckdb.InvalidInputException):  # a notebook without ipywidgets, which has no bar
                connection.execute("set enable_progress_bar = false")
            connection.execute(_NOTHING_ELSE)
            yield connection

    def _for_duckdb(self, dataset: ds.Dataset) -> ds.Dataset:
        return _remote().for_duckdb(dataset) if is_remote(self.store.root) else dataset

    def success(self, denominator: str = "clean-correct") -> "pd.DataFrame":
        """Success of each attack on each model: see `findings.success`."""
        return findings.success(self, denominator).rows

    def curve(self, attack: str, eps: Sequence[float]) -> "pd.DataFrame":
        """Success of a minimal-norm attack within each budget: see `findings.curve`."""
        return findings.curve(self, attack, eps).rows


def statements(text: str) -> list[str]:
    """The statements of a text, without the `;` after each; raises InputError if there is none."""
    signs, found, begin, empty = text.encode(), [], 0, True
    for place, kind in duckdb.tokenize(text):
        if kind == duckdb.token_type.operator and signs[place : place + 1] == b";":
            found += [] if empty else [signs[begin:place]]
            begin, empty = place + 1, True
        elif kind != duckdb.token_type.comment:
            empty = False
    found += [] if empty else [signs[begin:]]
    if not found:
        raise InputError("sql: give a query, such as select * from predictions limit 10")
    return [each.decode().strip() for each in found]


def is_whole(text: str) -> bool:
    """Whether the last statement of a text has its `;`."""
    tokens = [place for place, kind in duckdb.tokenize(text) if kind != duckdb.token_type.comment]
    return bool(tokens) and text.encode()[tokens[-1] : tokens[-1] + 1] == b";"


def _with_a_hint(reason: str, query: str) -> str:
    """What DuckDB says of a query, and what would be right where that is known."""
    if _READING in reason:
        return f"{reason.rstrip('.')}; {_MENDED}"
    if (found := _NO_COLUMN.search(reason)) and f'"{found[1]}"' in query:
        return f"{reason.rstrip('.')}; a text has single quotes: '{found[1]}'"
    if _OF_TRUTH in reason:
        said, _, _ = reason.partition(" You might need")
        return f"{said.rstrip('.')}; make a number of it, as in avg(correct::int)"
    return reason.rstrip(".")


_NO_COLUMN = re.compile(r'Referenced column "([^"]+)" not found')
_OF_TRUTH = "(BOOLEAN)'"
_QUERIES = {duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN, duckdb.StatementType.MULTI}
"""DESCRIBE and SUMMARIZE are SELECT for DuckDB, and a PIVOT that looks for its columns first is MULTI."""

_READING = "reading the stream registered as"
"""DuckDB's words for a table that cannot be read; all else is the query's fault."""

_NOTHING_ELSE = """
set enable_external_access = false;
set python_enable_replacements = false;
set lock_configuration = true;
begin transaction read only
"""
"""A query reads the tables: no file, no address, no variable of Python. Nor does it write, or make a table or view."""


def _asked(connection: duckdb.DuckDBPyConnection, query: str) -> duckdb.DuckDBPyRelation:
    """The answer to one query that only reads; raises InputError where it is something else."""
    kinds = [statement.type for statement in connection.extract_statements(query)]
    if len(kinds) != 1 or kinds[0] not in _QUERIES:
        raise InputError("sql: give one query, which only reads: select * from predictions limit 10")
    return connection.sql(query)


def _take_in(connection: duckdb.DuckDBPyConnection, path: str) -> None:
    """Copies a file into a table that has its path for a name."""
    name, literal = path.replace('"', '""'), path.replace("'", "''")
    try:
        connection.execute(f"create table \"{name}\" as from '{literal}'")
    except duckdb.Error as error:
        raise InputError(f"--allow-files: {path}: {str(error).splitlines()[0]}") from None


def _remote() -> ModuleType:
    from pipeline.results import remote_files  # noqa: PLC0415 - most runs are on a disk, and need none of it

    return remote_files


def open_run(path: str) -> Run:
    """Opens a run directory for reading; raises InputError if there is no run at `path`."""
    return Run(path)
