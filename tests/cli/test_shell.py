"""The shell of `megalith sql`, typed into: through a pipe, and once at a terminal of its own."""

import os
import pty
import re
import select
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from typer.testing import CliRunner

from pipeline.cli import shell
from pipeline.cli.process import Exit, TerminatedError
from pipeline.cli.shell import converse
from pipeline.main import app
from pipeline.results.tables import SCHEMA, Run, open_run
from tests.support.made import answers, made_run
from tests.support.runs import ROOT, complaint, invoke
from transforms.errors import StoppedError

pytestmark = pytest.mark.timeout(240)  # a shell that does not leave waits for keys

ENTER, CTRL_C, CTRL_D = "\r", "\x03", "\x04"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three images, of which one is right when clean and none under `fgsm`."""
    seen = answers([0, 9, 9]) + answers([9, 9, 9], attack="fgsm")
    attacked = [{"image_id": f"i{n}", "attack": "fgsm"} for n in range(3)]
    return open_run(str(made_run(tmp_path_factory.mktemp("shell"), seen, attacked)))


@pytest.fixture(autouse=True)
def history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "megalith" / "sql-history"


Answer = tuple[list[str], list[tuple[Any, ...]]]


def typed(run: Run, keys: str, files: Sequence[str] = ()) -> list[Answer]:
    """What is shown of these keys, which have to leave the shell."""
    shown: list[Answer] = []
    with create_pipe_input() as keyboard, create_app_session(input=keyboard, output=DummyOutput()):
        keyboard.send_text(keys)
        converse(run, files, lambda headings, rows: shown.append((headings, rows)))
    return shown


def test_a_query_is_answered_at_its_semicolon(run: Run) -> None:
    keys = f"select 1 as a,{ENTER}2 as b -- ;{ENTER};{ENTER}{CTRL_D}"
    assert typed(run, keys) == [(["a", "b"], [(1, 2)])]


def test_one_line_may_hold_several_queries(run: Run) -> None:
    assert typed(run, f"select 1; select ';' ;{ENTER}{CTRL_D}") == [(["1"], [(1,)]), (["';'"], [(";",)])]


def test_every_kind_of_question_is_answered(run: Run) -> None:
    asked = ("from images", "pivot predictions on attack using count(*)", "describe images", "summarize images")
    assert len(typed(run, "".join(f"{each};{ENTER}" for each in asked) + CTRL_D)) == len(asked)


def test_ctrl_c_drops_what_was_typed(run: Run) -> None:
    assert typed(run, f"select{ENTER} nonsense {CTRL_C}select 2;{ENTER}{CTRL_D}") == [(["2"], [(2,)])]


def test_ctrl_d_leaves_only_an_empty_line(run: Run) -> None:
    assert typed(run, f"select 3{CTRL_D};{ENTER}{ENTER}{CTRL_D}") == [(["3"], [(3,)])]


def test_a_mistake_is_said_and_the_shell_goes_on(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    mistakes = f"selct 1;{ENTER};{ENTER}select 'never ends;{CTRL_C}.shema{ENTER}.schema image{ENTER}"
    assert typed(run, f"{mistakes}select 4;{ENTER}.quit{ENTER}") == [(["4"], [(4,)])]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 4
    for line, words in zip(said, ('"selct"', "give a query", "'.schema'", "'images'"), strict=True):
        assert words in line


@pytest.mark.parametrize(
    "query", ["from '{file}'", "copy images to '{file}'", "pivot '{file}' on label using count(*)"]
)
def test_the_shell_reads_the_tables_and_nothing_else(
    query: str, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("label\n1\n")
    assert typed(run, f"{query.format(file=file)};{ENTER}{CTRL_D}") == []
    assert capsys.readouterr().err.startswith("sql: ")
    assert file.read_text() == "label\n1\n"
    assert typed(run, f"from '{file}';{ENTER}{CTRL_D}", [str(file)]) == [(["label"], [(1,)])]


def test_the_schema_is_shown_whole_or_of_a_table(run: Run) -> None:
    whole, part = typed(run, f".schema{ENTER}.schema transfer classes{ENTER}{CTRL_D}")
    assert whole == (SCHEMA, run.schema())
    assert [row[0] for row in part[1]] == ["transfer"] * 7 + ["classes"] * 3


def test_help_names_every_command(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    typed(run, f".help{ENTER}{CTRL_D}")
    said = capsys.readouterr().out
    assert all(word in said for word in (".schema", ".help", ".quit", "Ctrl-C", "Ctrl-D", "Tab", ";"))
    for query in re.findall(r"^  (\S.*;)", said, flags=re.M):
        run.rows(query)


def test_a_long_answer_is_cut_and_counted(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    ((_, found),) = typed(run, f"from range(1234);{ENTER}{CTRL_D}")
    assert found == [(each,) for each in range(200)]
    assert "the first 200 of 1,234 rows" in capsys.readouterr().out


@pytest.mark.parametrize("error", [KeyboardInterrupt, StoppedError("the store does not answer")])
def test_the_shell_outlives_a_query_that_is_stopped(
    error: BaseException, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = Run.rows

    def stopped(self: Run, query: str, files: Sequence[str] = ()) -> Any:
        if "slow" in query:
            raise error
        return answer(self, query, files)

    monkeypatch.setattr(Run, "rows", stopped)
    assert typed(run, f"from slow;{ENTER}select 5;{ENTER}{CTRL_D}") == [(["5"], [(5,)])]


def test_a_machine_that_is_taken_away_ends_the_shell(run: Run) -> None:
    def ended(*_: object) -> None:
        raise TerminatedError(Exit.TERMINATED)

    with create_pipe_input() as keyboard, create_app_session(input=keyboard, output=DummyOutput()):
        keyboard.send_text(f"select 1;{ENTER}")
        with pytest.raises(TerminatedError):
            converse(run, (), ended)


# --- history


def test_the_next_shell_has_what_was_typed(run: Run, history: Path) -> None:
    typed(run, f"select 'é',{ENTER}6;{ENTER}.schema classes{ENTER}{CTRL_D}")
    assert history.stat().st_mode & 0o777 == 0o600
    assert [*shell._history().load_history_strings()] == [".schema classes", "select 'é',\n6;"]


def test_the_history_is_bounded(run: Run, history: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell, "_REMEMBERED", 4)
    typed(run, "".join(f"select {n},{ENTER}{n};{ENTER}" for n in range(6)) + CTRL_D)
    assert history.read_text().count("+select") == 6
    assert [*shell._history().load_history_strings()] == ["select 5,\n5;", "select 4,\n4;"]
    assert [each.name for each in history.parent.iterdir()] == ["sql-history"]


def test_a_history_that_cannot_be_kept_is_no_error(run: Run, history: Path) -> None:
    history.parent.parent.write_text("a file where the folder should be")
    assert typed(run, f"select 7;{ENTER}select 7;{ENTER}{CTRL_D}") == [(["7"], [(7,)])] * 2
    history.parent.parent.unlink()
    history.mkdir(parents=True)
    assert typed(run, f"select 8;{ENTER}{CTRL_D}") == [(["8"], [(8,)])]


def test_a_damaged_history_is_no_error(run: Run, history: Path) -> None:
    history.parent.mkdir(parents=True)
    history.write_bytes(b"+sel\xffect\n+\x00\n\n\n\nrubbish\n")
    assert typed(run, f"select 9;{ENTER}{CTRL_D}") == [(["9"], [(9,)])]


# --- completion


@pytest.mark.parametrize(
    ("before", "after", "offered", "not_offered"),
    [
        ("from pred", "", {"predictions"}, {"predicted"}),
        ("select * from a JOIN cl", "", {"classes"}, {"clean_predicted"}),
        ("FROM Pred", "", {"predictions"}, set()),
        ("select lab", "", {"label", "label_name", "label_confidence"}, {"select"}),
        ("select lab", " from images", {"label", "label_name"}, {"label_confidence"}),
        ("select predictions.", " from images, predictions", {"margin", "view"}, {"uri", "select", "images"}),
        ("select predictions.mar", " from images, predictions", {"margin"}, {"max"}),
        ("select p.mar", " from predictions as p", {"margin"}, {"max"}),
        ("sel", "", {"select"}, set()),
        ("pivot tr", "", {"transfer"}, {"true"}),
        (".", "", {"schema", "help", "quit"}, {"select", "label"}),
        (".sc", "", {"schema"}, set()),
        (".schema at", "", {"attacks"}, {"attack", "attempt"}),
        ("select 1; describe c", "", {"canvases", "classes"}, {"count"}),
    ],
)
def test_tables_columns_and_words_are_completed(
    before: str, after: str, offered: set[str], not_offered: set[str], run: Run
) -> None:
    found = [
        each.text
        for each in shell._Names(run.schema()).get_completions(
            Document(before + after, len(before)), CompleteEvent(completion_requested=True)
        )
    ]
    assert len(found) == len(set(found))
    assert offered <= set(found) and not not_offered & set(found)


# --- the command


def test_standard_input_is_a_text_of_queries(run: Run) -> None:
    line = ["sql", run.store.root, "--format", "csv"]
    said = CliRunner().invoke(app, line, input="select 1 as a; -- one\nfrom images\nselect count(*) as n")
    assert (said.exit_code, said.stdout) == (0, "a\n1\nn\n3\n")
    assert "give a query" in complaint(CliRunner().invoke(app, line, input=" \n"))
    assert "not text in UTF-8" in complaint(CliRunner().invoke(app, line, input=b"select '\xff'"))


def test_an_option_of_beams_is_no_query(run: Run) -> None:
    line = ["sql", run.store.root, "--project=mine", "--format", "csv"]
    said = CliRunner().invoke(app, line, input="select 1 as a")
    assert (said.exit_code, said.stdout) == (0, "a\n1\n")
    assert "'--shema'" in complaint(CliRunner().invoke(app, ["sql", run.store.root, "--shema"], input=""))
    assert invoke("sql", run.store.root, "--one\nselect 1 as a", "--format", "csv").stdout == "a\n1\n"


def test_queries_of_one_argument_are_answered_in_turn(run: Run) -> None:
    said = invoke("sql", run.store.root, "select 1 as a; select 2 as b", "--format", "csv")
    assert (said.exit_code, said.stdout) == (0, "a\n1\nb\n2\n")


def test_the_schema_is_an_answer_like_any(run: Run) -> None:
    said = invoke("sql", run.store.root, "--schema", "--format", "csv")
    assert said.stdout.splitlines()[:2] == [
        "table,column,type,meaning",
        "images,image_id,VARCHAR,unique in the experiment",
    ]
    assert said.stdout.count("\n") == 1 + len(run.schema())
    assert "how the model looked at the canvas" in invoke("sql", run.store.root, "--schema").stdout


def test_bytes_are_counted_in_a_table_on_the_terminal(run: Run) -> None:
    assert "3 bytes" in invoke("sql", run.store.root, "select 'abc'::blob as picture").stdout


@pytest.mark.system
def test_at_a_terminal_there_is_a_shell(run: Run) -> None:
    """Keys go in and come back as a person would see them; the first prompt is waited for."""
    child, terminal = pty.fork()
    if not child:
        os.chdir(ROOT)
        line = [sys.executable, "-m", "pipeline.main", "sql", run.store.root]
        os.execve(line[0], line, {**os.environ, "TERM": "xterm"})  # noqa: S606
    seen = _read(terminal, "sql>")
    assert f"{run.store.root}: a query ends with ;" in seen
    os.write(terminal, b"select 40 + 2\r")
    _read(terminal, "...>")
    os.write(terminal, b"as answer;\r")
    assert "│ 42     │" in _read(terminal, "└")
    os.write(terminal, b"from ima\t")
    _read(terminal, "ges")
    os.write(terminal, b"\x03.quit\r")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _read(terminal: int, until: str) -> str:
    seen, end = "", time.monotonic() + 60
    while until not in seen:
        assert time.monotonic() < end, seen
        if select.select([terminal], [], [], 1)[0]:
            seen += os.read(terminal, 2**16).decode(errors="replace")
    return seen
