"""The shell of `megalith sql`: statements that end with `;`, a history, and completion of tables and columns."""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import uuid4

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import FileHistory
from prompt_toolkit.lexers import PygmentsLexer
from pygments.lexers.sql import SqlLexer

from pipeline.cli.process import TerminatedError, say
from pipeline.results.tables import SCHEMA, Run, is_whole, statements
from pipeline.results.views import MEANINGS
from transforms.errors import InputError, StoppedError, printable, unknown

Show = Callable[[list[str], list[tuple[Any, ...]]], None]

_SHOWN = 200
"""Rows of an answer that are shown, at most."""
_REMEMBERED = 2000
"""Statements in the history, at most, when a shell begins; half of them are kept of a longer one."""
_TABLE_NEXT = re.compile(r"\b(from|join|pivot|unpivot|describe|summarize)\s+$", re.IGNORECASE)
_COMMANDS = (".help", ".quit", ".schema")
_WORDS = """
all and any as asc avg between by case count count_if desc describe distinct else end exclude filter from group having
in is join left like limit max median min not null on or order over pivot select sum summarize then union unpivot using
when where with
"""

_HELP = """\
A query ends with ; and may take several lines. It reads the tables and views of this run, and nothing else.
  from answers limit 5;                                      rows of a table or view
  summarize attacks;                                         ranges of all columns
  pivot transfer on model using avg(success::int) group by attack;
.schema            tables and views: their columns, types and meanings
.schema TABLE      those of one
.help              this
.quit, or Ctrl-D   leaves
Tab completes tables, columns and words; arrows recall; Ctrl-C drops what was typed, or stops a query at work."""


def converse(run: Run, files: Sequence[str], show: Show) -> None:
    """Answers what is typed at the terminal, until `.quit` or Ctrl-D.

    Args:
        files: that queries may read besides, as in `Run.rows`.
        show: prints an answer's headings and rows.
    """
    schema = run.schema()
    session = PromptSession[str](
        "sql> ",
        multiline=Condition(lambda: not _is_ready(get_app().current_buffer.text)),  # whether Enter begins a line
        prompt_continuation="...> ",
        history=_history(),
        completer=_Names(schema),
        complete_while_typing=False,
        lexer=PygmentsLexer(SqlLexer),
    )
    print(f"{printable(run.store.root)}: a query ends with ;   .schema, .help and .quit do not")
    with suppress(EOFError):
        while True:
            try:
                _respond(session.prompt(), run, files, schema, show)
            except TerminatedError:
                raise
            except KeyboardInterrupt:
                continue
            except (InputError, StoppedError) as error:
                say(str(error))


def _is_ready(typed: str) -> bool:
    return not typed.strip() or typed.lstrip().startswith(".") or is_whole(typed)


def _respond(typed: str, run: Run, files: Sequence[str], schema: list[tuple[str, str, str, str]], show: Show) -> None:
    """Does what one entry asks; raises EOFError for `.quit`."""
    match typed.split():
        case []:
            pass
        case [".help"]:
            print(_HELP)
        case [".quit"]:
            raise EOFError
        case [".schema", *names]:
            if odd := [name for name in names if name not in MEANINGS]:
                raise unknown("table", odd[0], MEANINGS)
            show(SCHEMA, [row for row in schema if not names or row[0] in names])
        case [command, *_] if command.startswith("."):
            raise unknown("command", command, _COMMANDS)
        case _:
            for statement in statements(typed):
                headings, rows = run.rows(statement, files)
                show(headings, rows[:_SHOWN])
                if len(rows) > _SHOWN:
                    print(f"the first {_SHOWN} of {len(rows):,} rows")


class _Names(Completer):
    """Columns of the tables that a statement names, or of the one before a dot; tables; words of SQL; commands."""

    def __init__(self, schema: Iterable[tuple[str, str, str, str]]) -> None:
        self._columns: dict[str, list[str]] = {}
        for table, column, *_ in schema:
            self._columns.setdefault(table, []).append(column)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        begun = re.findall(r"\w*$", document.text_before_cursor)[0]
        before = document.text_before_cursor.removesuffix(begun)
        for word in dict.fromkeys(self._offered(document.text, before)):
            if word.startswith(begun.lower()):
                yield Completion(word, -len(begun))

    def _offered(self, text: str, before: str) -> Iterable[str]:
        if before == ".":
            return [each.removeprefix(".") for each in _COMMANDS]
        if before.startswith(".schema ") or _TABLE_NEXT.search(before):
            return self._columns
        owner = re.search(r"(\w+)\.$", before)
        tables = [owner[1]] if owner else re.findall(r"\w+", text)
        known = [table for table in tables if table in self._columns] or self._columns
        columns = [column for table in known for column in self._columns[table]]
        return columns if owner else [*columns, *self._columns, *_WORDS.split()]


class _History(FileHistory):
    """What was typed, newest first. A file that cannot be read or written is no error."""

    def load_history_strings(self) -> Iterable[str]:
        with suppress(OSError):
            return super().load_history_strings()
        return ()

    def store_string(self, string: str) -> None:
        with suppress(OSError):
            super().store_string(string)


def _history() -> _History:
    """Of all shells of this user, in the user's state folder."""
    folder = Path(os.environ.get("XDG_STATE_HOME") or Path("~/.local/state").expanduser(), "megalith")
    path = folder / "sql-history"
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        _shorten(path)
    return _History(path)


def _shorten(path: Path) -> None:
    typed = [*_History(path).load_history_strings()]
    if len(typed) <= _REMEMBERED:
        return
    shorter = path.with_suffix(f".{uuid4().hex}.tmp")
    shorter.touch(mode=0o600)
    for each in reversed([*islice(typed, _REMEMBERED // 2)]):
        _History(shorter).store_string(each)
    shorter.replace(path)
