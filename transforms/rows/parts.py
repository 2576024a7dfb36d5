"""Parts: the files of a run directory, named by what they hold. Names only: nothing is opened."""

import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from hashlib import blake2b
from threading import Lock
from urllib.parse import quote, unquote

from transforms.rows.tables import TABLES

CLEAN = "none"
"""The attack column of what was not attacked."""

_VARIANT = "@"
_TARGETED = ":target="

GROUPS = {**dict.fromkeys(TABLES, 256), "canvases": 16}
"""How many chunks of each table are compacted into one file at the end of a large run."""
BUNDLED = {"attacks": 0, "failures": 1, "predictions": 1}
"""How many partition columns the rows of a bundle have in common, by the tables that have bundles."""
_ROUND = 16
"""While a large run was at work, earlier versions compacted the first chunks of a group, a multiple of so many."""
_NUMBER = "[0-9]{5}|[1-9][0-9]{5,}"
_FILE = re.compile(rf"(?P<kind>chunk|group)-(?P<number>{_NUMBER})\.parquet")
_BEGUN = re.compile(rf"chunks-(?P<first>{_NUMBER})-(?P<last>{_NUMBER})\.parquet")
_BUNDLE = re.compile(rf"(.+/)?chunk-(?P<number>{_NUMBER})\.(?P<digest>[0-9a-f]{{16}})\.parquet")

Keys = tuple[str, ...]
"""The values of a table's partition columns, in order."""


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
    keys: Keys = ()

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
        """Where an earlier version may have left its rows, e.g. `attacks/attack=mi4/chunks-00000-00031.parquet`."""
        most = GROUPS[self.table]
        first = self.chunk // most * most
        ends = range(self.chunk // _ROUND * _ROUND + _ROUND, first + most, _ROUND)
        return tuple(f"{self.folder}/chunks-{first:05d}-{end - 1:05d}.parquet" for end in ends)

    @property
    def bundles(self) -> str:
        """How the paths of all bundles begin that may hold its rows, e.g. `predictions/attack=mi4/chunk-00003.`."""
        folder = "/".join(self.folder.split("/")[: 1 + BUNDLED[self.table]])
        return f"{folder}/chunk-{self.chunk:05d}."

    @property
    def bundled(self) -> tuple[str, ...]:
        """Where its rows may be while the run is at work: the bundles with its keys that are known so far."""
        known = _BUNDLES_WITH.get((self.table, self.keys), ())
        return tuple(Bundle(self.table, self.chunk, keys).path for keys in known)

    @property
    def places(self) -> tuple[str, ...]:
        """All files that may hold its rows."""
        return self.path, self.compacted, *self.begun, *self.bundled

    @property
    def folder(self) -> str:
        """Where it is with those of other chunks, e.g. `attacks/attack=mi4`."""
        return _folder(self.table, self.keys)


@lru_cache(2**16)
def _folder(table: str, keys: tuple[str, ...]) -> str:
    folders = [f"{name}={quote(key, safe='')}" for name, key in zip(TABLES[table].partitions, keys, strict=True)]
    return "/".join([table, *folders])


@dataclass(frozen=True, slots=True)
class Bundle:
    """One Parquet file with a table's rows of one chunk under several values of its partition columns.

    A large run has bundles while it is at work, and none at its end. Its name has a digest of the keys, and its footer
    has the keys themselves.

    Attributes:
        keys: in ascending order; `BUNDLED` says how many of their values they have in common.
    """

    table: str
    chunk: int
    keys: tuple[Keys, ...]

    @property
    def path(self) -> str:
        """Relative to the run directory, e.g. `predictions/attack=mi4/chunk-00003.0123456789abcdef.parquet`."""
        return f"{Part(self.table, self.chunk, self.keys[0]).bundles}{_digest(self.table, self.keys)}.parquet"


_BUNDLES: dict[str, tuple[str, tuple[Keys, ...]]] = {}
"""The table and the keys for which each digest stands. What it stands for never changes, so this is but a memory."""
_BUNDLES_WITH: dict[tuple[str, Keys], tuple[tuple[Keys, ...], ...]] = {}
"""The keys of the bundles that hold a table's rows with some keys."""
_learning = Lock()


@cache
def _digest(table: str, keys: tuple[Keys, ...]) -> str:
    """A digest of a bundle's keys, remembered."""
    digest = blake2b(json.dumps([table, keys]).encode(), digest_size=8).hexdigest()
    with _learning:
        if digest not in _BUNDLES:
            for each in keys:
                _BUNDLES_WITH[table, each] = (*_BUNDLES_WITH.get((table, each), ()), keys)
            _BUNDLES[digest] = table, keys
    return digest


def is_unknown_bundle(path: str) -> bool:
    """Whether a path may be that of a bundle whose keys have to be learnt from its footer."""
    found, table = _BUNDLE.fullmatch(path), path.partition("/")[0]
    if found is None or table not in BUNDLED or path.count("/") != 1 + BUNDLED[table]:
        return False
    return found["digest"] not in _BUNDLES


def learn(path: str, keys: object) -> None:
    """Remembers for which keys a bundle's digest stands, as its footer says; nothing if it says something else."""
    table = path.partition("/")[0]
    columns, common = len(TABLES[table].partitions), BUNDLED[table]
    if not isinstance(keys, list) or not all(isinstance(each, list) and len(each) == columns for each in keys):
        return
    found = [tuple(each) for each in keys if all(isinstance(key, str) and key for key in each)]
    if 0 < len(found) == len(keys) and sorted(set(found)) == found and len({each[:common] for each in found}) == 1:
        _digest(table, tuple(found))


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
        keys: with which it holds rows; one, unless it is a bundle.
        chunks: whose rows it holds: one, or those of a group.
    """

    table: str
    keys: tuple[Keys, ...]
    chunks: range
    is_bundle: bool = False

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts whose rows it holds."""
        return tuple(Part(self.table, chunk, keys) for keys in self.keys for chunk in self.chunks)


def table_file(path: str) -> TableFile | None:
    """What a path in a run directory says; None if it is not spelled as a run spells its own."""
    folder, _, name = path.rpartition("/")
    if (found := _BUNDLE.fullmatch(name)) and found["digest"] in _BUNDLES:
        table, bundled = _BUNDLES[found["digest"]]
        chunk = int(found["number"])
        own = path == Bundle(table, chunk, bundled).path
        return TableFile(table, bundled, range(chunk, chunk + 1), is_bundle=True) if own else None
    keys = _keys(folder)
    if keys is None:
        return None
    table = folder.partition("/")[0]
    if found := _FILE.fullmatch(name):
        size, number = GROUPS[table] if found["kind"] == "group" else 1, int(found["number"])
        return TableFile(table, (keys,), range(number * size, (number + 1) * size))
    if found := _BEGUN.fullmatch(name):
        chunks = range(int(found["first"]), int(found["last"]) + 1)
        return TableFile(table, (keys,), chunks) if path in Part(table, chunks.start, keys).begun else None
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
    return file.parts[0] if file and not file.is_bundle and len(file.chunks) == 1 else None


def file_of(part: Part, paths: Collection[str]) -> str | None:
    """The file among some that holds a part's rows, compacted or not; None where none does."""
    return next((path for path in part.places if path in paths), None)


def superseded(paths: Iterable[str]) -> set[str]:
    """Files that are still there although others hold their rows: a reader must not see rows twice.

    Of what overlaps, one or the other goes as a whole, and rows that no other file holds as seldom as can be. A bundle
    goes where all that it holds stands elsewhere; otherwise whatever else holds some of it goes, as where a run was
    killed while its bundles were compacted.
    """
    files = {path: file for path in paths if (file := table_file(path))}
    bundles = {path: file for path, file in files.items() if file.is_bundle}
    singles = {path: file for path, file in files.items() if not file.is_bundle}
    gone = _covered(singles)
    while bundles:
        beside = _Beside(bundles.values(), {path: singles[path] for path in singles.keys() - gone})
        live = _live(bundles, beside)
        again = {path for each in live for path, _ in beside.of(bundles[each])}
        if not again:
            return gone | bundles.keys() - live
        gone |= again
    return gone


class _Beside:
    """Files that are no bundles and hold rows which bundles hold, too."""

    def __init__(self, bundles: Iterable[TableFile], singles: Mapping[str, TableFile]) -> None:
        kinds = {(bundle.table, bundle.keys) for bundle in bundles}
        wanted = {(table, keys) for table, several in kinds for keys in several}
        found: defaultdict[tuple[str, Keys], list[tuple[str, range]]] = defaultdict(list)
        for path, file in singles.items():
            if (file.table, file.keys[0]) in wanted:
                found[file.table, file.keys[0]].append((path, file.chunks))
        self._found = {
            (table, several): [(keys, *each) for keys in several for each in found.get((table, keys), [])]
            for table, several in kinds
        }

    def of(self, bundle: TableFile) -> list[tuple[str, Keys]]:
        """Those that hold rows of a bundle, each with the keys of these rows."""
        (chunk,) = bundle.chunks
        return [(path, keys) for keys, path, chunks in self._found[bundle.table, bundle.keys] if chunk in chunks]


def _live(bundles: Mapping[str, TableFile], beside: _Beside) -> set[str]:
    """Bundles that hold what nothing else does, and no rows of each other."""
    of_a_chunk: defaultdict[tuple[str, int], list[str]] = defaultdict(list)
    for path, file in bundles.items():
        of_a_chunk[path.rpartition("/")[0], file.chunks.start].append(path)
    live = set[str]()
    for some in of_a_chunk.values():
        ordered = sorted(some, key=lambda path: (-len(bundles[path].keys), path))
        taken = set[Keys]()
        for number, path in enumerate(ordered):
            keys = set(bundles[path].keys)
            smaller = (bundles[each].keys for each in ordered[number + 1 :])
            elsewhere = {each for _, each in beside.of(bundles[path])}.union(*smaller)
            if keys.isdisjoint(taken) and not keys <= elsewhere:
                live.add(path)
                taken |= keys
    return live


def _covered(files: Mapping[str, TableFile]) -> set[str]:
    """Files that are no bundles, and whose chunks a longer one holds."""
    spans: defaultdict[str, list[tuple[int, int, str]]] = defaultdict(list)
    for path, file in files.items():
        spans[path.rpartition("/")[0]].append((file.chunks.start, -file.chunks.stop, path))
    gone = set[str]()
    for span in spans.values():
        reached = 0
        for _, stop, path in sorted(span):  # of those that begin with a chunk, the longest first
            if -stop <= reached:
                gone.add(path)
            reached = max(reached, -stop)
    return gone
