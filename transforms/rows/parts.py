"""Parts: the files of a run directory, named by what they hold. Names only: nothing is opened."""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from urllib.parse import quote, unquote

from transforms.rows.tables import TABLES

CLEAN = "none"
"""The attack column of what was not attacked."""

_VARIANT = "@"
_TARGETED = ":target="

GROUPS = {**dict.fromkeys(TABLES, 256), "canvases": 16}
"""How many chunks of each table are compacted into one file at the end of a large run."""
ROUND = 16
"""While a large run is at work, the first chunks of a group are compacted, a multiple of so many."""
_NUMBER = "[0-9]{5}|[1-9][0-9]{5,}"
_FILE = re.compile(rf"(?P<kind>chunk|group)-(?P<number>{_NUMBER})\.parquet")
_BEGUN = re.compile(rf"chunks-(?P<first>{_NUMBER})-(?P<last>{_NUMBER})\.parquet")


def variant_name(attack: str, defense: str) -> str:
    """The attack column of an adaptive attack's variant that knows a defence."""
    return f"{attack}{_VARIANT}{defense}"


def variant_of(name: str) -> tuple[str, str] | None:
    """The adaptive attack that an attack column names a variant of, and the defence that it knows; None for any other.

    An experiment's own names hold no `@`.
    """
    attack, mark, defense = name.partition(_VARIANT)
    return (attack, defense) if mark else None


def targeted_name(attack: str, target: str) -> str:
    """The attack column of an attack with several targets, for one of them."""
    return f"{attack}{_TARGETED}{target}"


def untargeted_name(name: str) -> str:
    """An attack column without the one of several targets that it names; an adaptive attack's variant stays one."""
    own, mark, defense = name.partition(_VARIANT)
    return own.partition(_TARGETED)[0] + mark + defense


def experiments_name(name: str) -> str:
    """What the experiment calls the attack that an attack column names."""
    return untargeted_name(name).partition(_VARIANT)[0]


@dataclass(frozen=True, slots=True)
class Part:
    """One Parquet file: a table's rows of one chunk, under given values of the table's partition columns."""

    table: str
    chunk: int
    keys: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """Relative to the run directory, e.g. `attacks/attack=mi4/chunk-00003.parquet`."""
        return f"{self.folder}/chunk-{self.chunk:05d}.parquet"

    @property
    def compacted(self) -> str:
        """Where its rows are once they have been compacted, e.g. `attacks/attack=mi4/group-00000.parquet`."""
        return f"{self.folder}/group-{self.chunk // GROUPS[self.table]:05d}.parquet"

    @property
    def begun(self) -> tuple[str, ...]:
        """Where its rows may be while the run is at work, e.g. `attacks/attack=mi4/chunks-00000-00031.parquet`."""
        most = GROUPS[self.table]
        first, ends = self.chunk // most * most, range(self.chunk // ROUND * ROUND + ROUND, self.chunk + most, ROUND)
        return tuple(begun_path(self.folder, range(first, end)) for end in ends if end < first + most)

    @property
    def folder(self) -> str:
        """Where it is with those of other chunks, e.g. `attacks/attack=mi4`."""
        return _folder(self.table, self.keys)


@lru_cache(2**16)
def _folder(table: str, keys: tuple[str, ...]) -> str:
    folders = [f"{name}={quote(key, safe='')}" for name, key in zip(TABLES[table].partitions, keys, strict=True)]
    return "/".join([table, *folders])


def begun_path(folder: str, chunks: range) -> str:
    """Where the rows of the first chunks of a group are compacted, while others are still missing."""
    return f"{folder}/chunks-{chunks.start:05d}-{chunks.stop - 1:05d}.parquet"


def images_part(chunk: int) -> Part:
    return Part("images", chunk)


def canvases_part(chunk: int, attack: str) -> Part:
    return Part("canvases", chunk, (attack,))


def attacks_part(chunk: int, attack: str) -> Part:
    return Part("attacks", chunk, (attack,))


def predictions_part(chunk: int, attack: str, model: str, view: str, defense: str) -> Part:
    return Part("predictions", chunk, (attack, model, view, defense))


def _failures_part(chunk: int, stage: str, attack: str) -> Part:
    return Part("failures", chunk, (stage, attack, CLEAN, CLEAN, CLEAN))


def load_parts(chunk: int) -> tuple[Part, ...]:
    """What loading a chunk makes, in the order of publication. Failures are a part even where there are none."""
    return _failures_part(chunk, "load", CLEAN), images_part(chunk), canvases_part(chunk, CLEAN)


def attack_parts(chunk: int, attack: str) -> tuple[Part, ...]:
    """What attacking a chunk makes, in the order of publication."""
    return _failures_part(chunk, "attack", attack), canvases_part(chunk, attack), attacks_part(chunk, attack)


@dataclass(frozen=True, slots=True)
class TableFile:
    """What the path of a table's file says.

    Attributes:
        keys: the values of the table's partition columns.
        chunks: whose rows it holds: one, or those of a group.
    """

    table: str
    keys: tuple[str, ...]
    chunks: range

    @property
    def partitions(self) -> dict[str, str]:
        """Its partition columns and their values."""
        return dict(zip(TABLES[self.table].partitions, self.keys, strict=True))


def table_file(path: str) -> TableFile | None:
    """What a path in a run directory says; None if it is not spelled as a run spells its own."""
    folder, _, name = path.rpartition("/")
    keys = _keys(folder)
    if keys is None:
        return None
    table = folder.partition("/")[0]
    if found := _FILE.fullmatch(name):
        size, number = GROUPS[table] if found["kind"] == "group" else 1, int(found["number"])
        return TableFile(table, keys, range(number * size, (number + 1) * size))
    if found := _BEGUN.fullmatch(name):
        chunks = range(int(found["first"]), int(found["last"]) + 1)
        return TableFile(table, keys, chunks) if path in Part(table, chunks.start, keys).begun else None
    return None


@cache
def _keys(folder: str) -> tuple[str, ...] | None:
    table, *levels = folder.split("/")
    if table not in TABLES or len(levels) != len(TABLES[table].partitions):
        return None
    keys = tuple(unquote(level.partition("=")[2]) for level in levels)
    return keys if all(keys) and folder == Part(table, 0, keys).folder else None


def part_of(path: str) -> Part | None:
    """The part that a file of one chunk is; None for any other file."""
    file = table_file(path)
    return None if file is None or len(file.chunks) > 1 else Part(file.table, file.chunks.start, file.keys)


def file_of(part: Part, paths: Collection[str]) -> str | None:
    """The file among some that holds a part's rows, compacted or not; None where none does."""
    return next((path for path in (part.path, part.compacted, *part.begun) if path in paths), None)


def superseded(paths: Iterable[str]) -> set[str]:
    """Files that are still there although they have been compacted: a reader must not see their rows twice."""
    spans: defaultdict[str, list[tuple[int, int, str]]] = defaultdict(list)
    for path in paths:
        if file := table_file(path):
            spans[path.rpartition("/")[0]].append((file.chunks.start, -file.chunks.stop, path))
    gone = set[str]()
    for span in spans.values():
        reached = 0
        for _, stop, path in sorted(span):  # of those that begin with a chunk, the longest first
            if -stop <= reached:
                gone.add(path)
            reached = max(reached, -stop)
    return gone
