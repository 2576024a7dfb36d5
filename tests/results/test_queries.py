"""Queries: what they may do, what they may not, and how a text is taken apart into statements."""

from pathlib import Path
from tempfile import gettempdir

import pytest

from pipeline.results.tables import Run, is_whole, open_run, statements
from tests.support.made import answers, made_run
from transforms.errors import InputError


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three images of classes 1, 2, 3, of which model m has the first right when clean, and none under `fgsm`."""
    seen = answers([1, 9, 9]) + answers([9, 9, 9], attack="fgsm")
    labelled = [{"image_id": f"i{n}", "label": n + 1} for n in range(3)]
    attacked = [{"image_id": f"i{n}", "attack": "fgsm"} for n in range(3)]
    return open_run(str(made_run(tmp_path_factory.mktemp("queries"), seen, attacked, labelled)))


@pytest.mark.parametrize(
    ("query", "answer"),
    [
        ("from predictions select count(*)", [(6,)]),
        ("from images", 3),
        ("table images", 3),
        ("pivot predictions on attack using count_if(correct)::int group by model", [("m", 0, 1)]),
        ("pivot (from predictions) on attack in ('none') using count(*) group by model", [("m", 3)]),
        ("with r as (from predictions where correct) pivot r on model using count(*) group by label", [(1, 1)]),
        ("from (pivot predictions on attack using count(*) group by model) select fgsm", [(3,)]),
        ("unpivot (select 1 as a, 2 as b) on a, b", [("a", 1), ("b", 2)]),
        ("describe images", 8),
        ("describe from transfer", 7),
        ("select column_name from (describe images) limit 1", [("image_id",)]),
        ("summarize images", 8),
        ("select max from (summarize from images) where column_name = 'label'", [("3",)]),
        ("show tables", 8),
        ("values (1), (2)", [(1,), (2,)]),
        ("explain from predictions", 1),
        ("explain pivot predictions on attack using count(*)", 1),
        ("select 1 -- of three", [(1,)]),
        ("select ';'", [(";",)]),
    ],
)
def test_whatever_is_a_question_is_answered(query: str, answer: int | list[tuple[object, ...]], run: Run) -> None:
    """A number says only how many rows there are."""
    _, found = run.rows(query)
    assert (len(found) if isinstance(answer, int) else found) == answer


REFUSED = [
    "from '{file}'",
    "from read_csv('{file}')",
    "from read_text('{file}')",
    "from read_blob('{folder}/*')",
    "from glob('{folder}/*')",
    "from sniff_csv('{file}')",
    "from parquet_metadata('{file}')",
    "select (from read_text('{file}') select content)",
    "with t as materialized (from read_text('{file}')) from t",
    "from query('from read_text(''{file}'')')",
    "from query_table('{file}')",
    "pivot '{file}' on label using count(*)",
    "pivot (from read_csv('{file}')) on label using count(*)",
    "pivot images on label in (from read_text('{file}') select content) using count(*)",
    "unpivot (from read_csv('{file}')) on label",
    "describe '{file}'",
    "describe from '{file}'",
    "summarize '{file}'",
    "summarize from read_csv('{file}')",
    "explain analyze from '{file}'",
    "from 'http://127.0.0.1:1/labels.csv'",
    "from read_csv('https://127.0.0.1:1/labels.csv')",
    "from 's3://bucket/labels.parquet'",
    "attach '{file}' as mine",
    "copy images to '{file}'",
    "copy (pivot images on label using count(*)) to '{file}'",
    "explain analyze copy images to '{file}'",
    "with x as (copy (select 1) to '{file}') select 1",
    "export database '{folder}'",
    "import database '{folder}'",
    "from duckdb_secrets()",
    "from run",
    "from file",
    "install httpfs",
    "load '{file}'",
    "set enable_external_access = true",
    "reset enable_external_access",
    "pragma threads = 1",
    "explain analyze set threads = 1",
    "call enable_logging(storage = 'file', storage_path = '{folder}')",
    "from enable_logging()",
    "begin",
    "select 1; from '{file}'",
    "pivot images on label using count(*); from '{file}'",
    "create table mine as from images",
    "create temp table mine as from images",
    "create table mine as pivot images on label using count(*)",
    "create view images as select 1",
    "explain analyze create table mine as from images",
    "explain analyze drop view transfer",
    "insert into images from images",
    "delete from images",
    "drop view transfer",
    "prepare mine as from images",
    "",
    "-- from images",
]


@pytest.mark.parametrize("query", REFUSED)
def test_a_query_reads_the_tables_and_nothing_else(query: str, run: Run, tmp_path: Path) -> None:
    """No file, no address, no variable of this program, no setting; and it writes nothing."""
    file = tmp_path / "labels.csv"
    file.write_text("label\n1\n")
    with pytest.raises(InputError, match=r"^sql: "):
        run.rows(query.format(file=file, folder=tmp_path))
    assert file.read_text() == "label\n1\n" and list(tmp_path.iterdir()) == [file]


def test_nothing_that_a_query_makes_is_there_for_the_next(run: Run) -> None:
    with pytest.raises(InputError, match="read-only"):
        run.rows("create table mine as pivot images on label using count(*)")
    with pytest.raises(InputError, match="mine does not exist"):
        run.rows("from mine")


def test_what_does_not_fit_into_memory_is_put_aside_where_nobody_else_writes(run: Run) -> None:
    (one,), (other,) = (run.rows("select current_setting('temp_directory')")[1][0] for _ in range(2))
    assert one != other
    assert {Path(one).parent, Path(other).parent} == {Path(gettempdir())}
    assert not Path(one).exists()


def test_a_signal_that_stops_a_query_stops_the_command(run: Run) -> None:
    """DuckDB swallows what the signal's handler raises."""

    def fetched(said: str) -> None:
        raise RuntimeError(said)

    with pytest.raises(KeyboardInterrupt):
        run._answer("select 1", lambda _: fetched("Query interrupted"))
    with pytest.raises(RuntimeError, match="else"):
        run._answer("select 1", lambda _: fetched("anything else"))


@pytest.mark.filterwarnings("ignore:.* lack images")
def test_queries_that_are_asked_at_once_see_the_same_files(tmp_path: Path) -> None:
    """The run directory is looked at once; a wrong query, or a file that goes meanwhile, spoils none of the others."""
    seen = answers([0, 1]) + answers([0, 1, 2], attack="pgd")
    folder = made_run(tmp_path, seen, [{"image_id": f"i{n}", "attack": "pgd"} for n in range(3)])
    run, count, place = open_run(str(folder)), "select count(*) from predictions", "select current_setting('{}')"
    with run.asked_at_once():
        first, second = (run.rows(place.format("temp_directory"))[1] for _ in range(2))
        assert first == second
        assert run.rows(count)[1] == [(5,)]
        for wrong, said in (
            ("from nowhere", "nowhere"),
            ("delete from predictions", "only reads"),
            ("select 'a'::int", "'a'"),
        ):
            with pytest.raises(InputError, match=said):
                run.rows(wrong)
            assert run.rows(count)[1] == [(5,)]
        for part in (folder / "predictions" / "attack=pgd").rglob("*.parquet"):
            part.unlink()
        assert run.rows(count)[1] == [(2,)]
    assert run.rows(place.format("temp_directory"))[1] != first


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("select 1", ["select 1"]),
        ("select 1;", ["select 1"]),
        (";select 1;; select 2 ;", ["select 1", "select 2"]),
        ("select 1;\n-- the end;\n", ["select 1"]),
        ("select ';' as \"a;b\" /* ; */ ; from t", ["select ';' as \"a;b\" /* ; */", "from t"]),
        ("select $$;$$; select e'\\';'", ["select $$;$$", "select e'\\';'"]),
        ("select 'é;日';select 'it''s;'", ["select 'é;日'", "select 'it''s;'"]),
        ("select count(*);select *;", ["select count(*)", "select *"]),
        ("select 'never ends;", ["select 'never ends;"]),
    ],
)
def test_statements_end_with_a_semicolon_of_their_own(text: str, parts: list[str]) -> None:
    assert statements(text) == parts


@pytest.mark.parametrize("text", ["", " \n", ";", ";;", "-- nothing;", "/* ; */"])
def test_a_text_without_a_statement_is_told_what_to_give(text: str) -> None:
    with pytest.raises(InputError, match=r"^sql: give a query, such as select"):
        statements(text)


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("select 1;", True),
        ("select 1; -- so", True),
        ("select\n1\n;\n", True),
        (";", True),
        ("select 1", False),
        ("select 1; select 2", False),
        ("select ';", False),
        ("select ';'", False),
        ("select 1 -- ;", False),
        ("select 1 /* ;", False),
        ("", False),
    ],
)
def test_a_statement_goes_on_until_its_semicolon(text: str, whole: bool) -> None:
    assert is_whole(text) is whole
