"""Reading a run directory: tables as pandas frames, SQL over them, and success rates under each denominator."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, get_args

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from pipeline.results.record import RUN_JSON, RunRecord, read_record
from pipeline.results.statistics import Rate
from transforms.errors import InputError, said_by, unknown
from transforms.rows.parts import superseded
from transforms.rows.tables import TABLES
from transforms.storage.files import absolute, is_remote
from transforms.storage.preflight import reach
from transforms.storage.store import Store

if TYPE_CHECKING:  # pandas takes a second to import, and SQL answers without
    import pandas as pd

_MENDED = "if a part is damaged, `megalith verify` names it, and running the experiment again makes it anew"
Denominator = Literal["all", "clean-correct", "surrogate-fooled"]


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
        paths = self.store.paths()
        return paths - superseded(paths)

    def _dataset(self, table: str, paths: Collection[str]) -> ds.Dataset:
        schema = TABLES[table].schema
        parts = sorted(path for path in paths if path.startswith(f"{table}/") and path.endswith(".parquet"))
        if not parts:
            return ds.dataset(schema.empty_table())
        partitions = pa.schema([schema.field(name) for name in TABLES[table].partitions])
        partitioning = ds.partitioning(partitions, flavor="hive")
        root = self.store.root
        files = _remote().RemoteFiles(self.store) if is_remote(root) else SubTreeFileSystem(root, LocalFileSystem())
        return ds.dataset(parts, schema=schema, filesystem=files, partitioning=partitioning, partition_base_dir=table)

    def sql(self, query: str) -> "pd.DataFrame":
        """Answers a query in DuckDB's SQL over the tables; raises InputError if it is wrong."""
        with self._answer(query) as answer:
            return answer.df()

    def rows(self, query: str) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Like `sql`, as the names of columns and plain Python values, null as None."""
        with self._answer(query) as answer:
            return answer.columns, answer.fetchall()

    def _for_duckdb(self, dataset: ds.Dataset) -> ds.Dataset:
        return _remote().for_duckdb(dataset) if is_remote(self.store.root) else dataset

    @contextmanager
    def _answer(self, query: str) -> Iterator[duckdb.DuckDBPyRelation]:
        with duckdb.connect() as connection:
            paths = self._paths()
            for table in TABLES:
                connection.register(table, self._for_duckdb(self._dataset(table, paths)))
            try:
                kinds = [statement.type for statement in connection.extract_statements(query)]
                if kinds != [duckdb.StatementType.SELECT]:
                    raise InputError("sql: give one query, such as: select * from predictions limit 10")
                yield connection.sql(query)
            except duckdb.Error as error:
                # Where a part cannot be read, Arrow adds a traceback.
                reason, _, _ = str(error).partition(" Detail: Python exception:")
                mended = f"; {_MENDED}" if isinstance(error, duckdb.InvalidInputException) else ""
                raise InputError(f"sql: {reason.rstrip('.')}{mended}") from None

    def success(self, denominator: Denominator = "clean-correct") -> "pd.DataFrame":
        """Success of each attack on each model, with Wilson's 95 % interval.

        An untargeted attack succeeds where the model's answer is not right, an abstention behind `smoothing` included;
        a targeted one where it is the target.
        Images of the target class itself never count.

        Args:
            denominator: which images count: "all"; "clean-correct", those that the model gets right when they are clean
                and undefended; "surrogate-fooled", those on which the attack succeeded on its surrogates.

        Returns:
            One row per attack, model, view and defense: through, successes, of, rate, low, high. Only where `through`,
            the defence that the attack knows, is the row's own was that defence attacked at all.
        """
        if denominator not in get_args(Denominator):
            raise unknown("denominator", denominator, get_args(Denominator))
        return _with_rates(self.sql(_SUCCESS.format(condition=_CONDITIONS[denominator])))

    def curve(self, attack: str, eps: Sequence[float]) -> "pd.DataFrame":
        """How often a minimal-norm attack succeeds on its surrogates within each budget, with Wilson's interval.

        Of the images that the surrogates get right when they are clean, but for those of the target class. The norms
        are those found before rounding to 8 bits, so budgets beyond the attack's own may be asked for.

        Args:
            attack: as the experiment calls it.
            eps: budgets, in the unit of [0, 1] pixels.

        Returns:
            One row per budget: eps, successes, of, rate, low, high.

        Raises:
            InputError: there are no rows of such an attack.
        """
        norms = self.read("attacks", ["minimal_norm"], (ds.field("attack") == attack) & _COUNTS)
        if norms["minimal_norm"].isna().all():
            raise InputError(f"{attack!r} is not a minimal-norm attack that was run")
        counts = [(budget, int((norms["minimal_norm"] <= budget).sum()), len(norms)) for budget in eps]
        import pandas as pd  # noqa: PLC0415 - said above

        return _with_rates(pd.DataFrame(counts, columns=["eps", "successes", "of"]))


def _remote() -> ModuleType:
    from pipeline.results import remote_files  # noqa: PLC0415 - most runs are on a disk, and need none of it

    return remote_files


def _with_rates(counts: "pd.DataFrame") -> "pd.DataFrame":
    rates = [Rate(int(row.successes), int(row.of)) for row in counts.itertuples()]
    return counts.assign(
        rate=[rate.successes / rate.of if rate.of else float("nan") for rate in rates],
        low=[rate.low for rate in rates],
        high=[rate.high for rate in rates],
    )


_COUNTS = (ds.field("clean_predicted") == ds.field("label")) & (
    ds.field("target").is_null() | (ds.field("target") != ds.field("label"))
)

_CONDITIONS = {"all": "true", "clean-correct": "clean.correct", "surrogate-fooled": "attacks.success"}

_SUCCESS = """
select attack, model, seen.view, defense, attacks.through,
       count_if({condition} and case when seen.target is null then not seen.correct
                                     else seen.predicted = seen.target and not coalesce(seen.abstained, false) end)
         ::bigint as successes,
       count_if({condition})::bigint as "of"
from predictions as seen
join (select image_id, attack, success, through from attacks) as attacks using (image_id, attack)
join (select image_id, model, view, correct from predictions where attack = 'none' and defense = 'none') as clean
  using (image_id, model, view)
where seen.label is distinct from seen.target
group by all
order by all
"""


def open_run(path: str) -> Run:
    """Opens a run directory for reading; raises InputError if there is no run at `path`."""
    return Run(path)
