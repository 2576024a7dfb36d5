"""True classes of images: from a labels CSV, or from the development kit of ILSVRC2012."""

import codecs
import csv
import gzip
import io
import posixpath
import re
import tarfile
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType

from transforms.data.chunks import UNLABELED, Truth
from transforms.data.classes import classes_called, resolve_class
from transforms.errors import InputError, StoppedError, printable, said_by
from transforms.storage.files import read_bytes

FILE_COLUMNS = ("file", "filename", "image", "imageid")
LABEL_COLUMNS = ("label", "wnid", "class", "name", "predictionstring")
NIPS17_COLUMNS = ("imageid", "truelabel", "targetclass")
"""Columns of the NIPS'17 competition's images.csv, whose labels are 1–1000."""

_LISTED = re.compile(r"(\S.*\.(?:jpe?g|png))[ \t]+([0-9]{1,9})", re.IGNORECASE)
"""A line of a list such as caffe's val.txt: a file and a class index."""
_LAST_CLASS = 999
_FIRST_OF_ALL = ("ILSVRC2012_val_00000001", 65)
"""An image whose class tells the orders of classes apart: the development kit's number for it is 490."""

DEVKIT_META = "data/meta.mat"
_DEVKIT_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"
WNID = re.compile(r"n[0-9]{8}")
_GZIP = b"\x1f\x8b"
_MAX_BYTES = 2**26
"""Maximum size of a CSV, and of a development kit, packed or not; ImageNet's has some 2 MB."""


class Labels:
    """Truths by the names that a CSV gives to files, compared as `spelled` writes them.

    Attributes:
        uri: of the CSV.
        notes: what the user should know of how it was read.
        targets: what its other columns give to the same files, by the column's name.
    """

    def __init__(
        self,
        uri: str,
        rows: Iterable[tuple[str, Truth]],
        notes: tuple[str, ...] = (),
        targets: Mapping[str, "Labels"] = MappingProxyType({}),
    ) -> None:
        """`rows` are those of the CSV, file and truth."""
        self.uri, self.notes, self.targets = uri, notes, targets
        self._rows: dict[str, dict[str, list[Truth]]] = defaultdict(dict)
        for file, truth in rows:
            path = spelled(file)
            for key in {posixpath.basename(path), _stem(path)}:
                self._rows[key].setdefault(path, []).append(truth)

    def by_path(self, name: str) -> Truth | None:
        """The truth that the CSV gives to a path, with or without its extension."""
        path = spelled(name)
        return self._agreed(truth for file, truth in self._about(path) if file in (path, _without_extension(path)))

    def by_name(self, name: str, is_alone: bool) -> Truth | None:
        """The truth of an image that is NAME or WNID/NAME, whatever folders the CSV writes before it.

        What names it best counts: its path, its folder and name, its name, its name less extension.

        Args:
            is_alone: whether there is no image in another folder that has its name, less extension.
        """
        if (truth := self.by_path(name)) is not None:
            return truth
        path = spelled(name)
        wnid, _, file_name = path.rpartition("/")
        names = (file_name, _without_extension(file_name))
        about = [(file.split("/"), truth) for file, truth in self._about(path)]
        about = [(parts, truth) for parts, truth in about if _fits(wnid, parts[:-1])]
        same_folder = [truth for parts, truth in about if wnid and parts[-2:-1] == [wnid] and parts[-1] in names]
        same_name = [truth for parts, truth in about if parts[-1] in names]
        if about and not same_folder and not is_alone:
            return Truth(
                UNLABELED, f"several images are called {_stem(path)}, and {self.uri} does not say which it means"
            )
        return self._agreed(same_folder or same_name or [truth for _, truth in about])

    def paths(self) -> set[str]:
        """The names of all files in the CSV."""
        return {file for files in self._rows.values() for file in files}

    def _about(self, path: str) -> list[tuple[str, Truth]]:
        keys = (posixpath.basename(path), _stem(path))
        files = {file: truths for key in keys for file, truths in self._rows.get(key, {}).items()}
        return [(file, truth) for file, truths in files.items() for truth in truths]

    def _agreed(self, truths: Iterable[Truth]) -> Truth | None:
        found = list(dict.fromkeys(truths))
        if len(found) > 1:
            return Truth(UNLABELED, f"labeled more than once, differently, in {self.uri}")
        return found[0] if found else None


def spelled(name: str) -> str:
    r"""A relative path as it is compared with others: composed Unicode (a Mac decomposes), `/` for Windows' `\`."""
    return posixpath.normpath(unicodedata.normalize("NFC", name).replace("\\", "/"))


def _fits(wnid: str, folders: Sequence[str]) -> bool:
    """Whether an image in a folder can be what a row with other folders means: not if both name a class."""
    return not wnid or not folders or folders[-1] == wnid or not WNID.fullmatch(folders[-1])


def _stem(path: str) -> str:
    return _without_extension(posixpath.basename(path))


def _without_extension(path: str) -> str:
    return posixpath.splitext(path)[0]


def read_labels(uri: str, targets: Collection[str] = ()) -> Labels:
    """Reads a CSV of labels; tabs or semicolons may separate its columns. Or a list such as caffe's val.txt.

    The first row names the columns, in any case. The first present of `FILE_COLUMNS` names the image, the first
    present of `LABEL_COLUMNS` its class: an index, 0–999 (0-based: tench is 0), a wnid or a name; of a Kaggle
    PredictionString, its first word. Further columns of these must agree where they name a class, and tell what an
    ambiguous name means. A class that is empty, unknown, ambiguous or contradicted is that image's problem, and so are
    two rows that give it different classes: neither is to be believed. Two equal rows count as one.

    A list has no header; its lines are `FILE INDEX`, 0-based.

    Args:
        targets: names of further columns, in any case, that hold a class for each file.

    Raises:
        InputError: the file is not a CSV in UTF-8, lacks one of the columns, has two columns of files with one name, or
            of targets, or has a row that names no file.
    """
    try:
        text = text_of("labels", uri, _read("labels", uri), "CSV")
        if not _LISTED.match(text.lstrip()):
            return _labels(uri, text, targets)
        if targets:
            raise InputError(f"images.labels: {uri} is a list without columns, so it has no {min(targets)}")
        return _list(uri, text)
    except csv.Error as error:
        raise InputError(f"images.labels: {uri} is not a CSV in UTF-8: {error}") from error


def text_of(key: str, uri: str, data: bytes, kind: str = "text file") -> str:
    """The text of a file in UTF-8, with or without a byte order mark. Raises InputError if it is none."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise InputError(f"images.{key}: {uri} is UTF-16, as some programs on Windows save text; save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"images.{key}: {uri} is not a {kind} in UTF-8: {error}") from error


def _labels(uri: str, text: str, targets: Collection[str]) -> Labels:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text), strict=True)
    header = [name.strip().lower() for name in next(reader, [])]
    is_nips17 = set(NIPS17_COLUMNS) <= set(header) and not set(LABEL_COLUMNS) & set(header)
    accepted = NIPS17_COLUMNS[1:2] if is_nips17 else LABEL_COLUMNS
    files = _columns(uri, "file", header, FILE_COLUMNS)
    labels = _columns(uri, "label", header, accepted)
    if header.count(header[files[0]]) > 1:
        raise InputError(f"images.labels: {uri} has {header.count(header[files[0]])} columns {header[files[0]]!r}")
    aims = {name: _target_column(uri, header, name) for name in targets}
    rows, wanted = [], {name: list[tuple[str, Truth]]() for name in targets}
    for row in filter(any, reader):
        fields = [*map(str.strip, row), *[""] * (len(header) - len(row))]
        if not fields[files[0]]:
            raise InputError(f"images.labels: {uri}, line {reader.line_num}: the column {header[files[0]]!r} is empty")
        written = tuple(_written(header[column], fields[column]) for column in labels)
        rows.append((fields[files[0]], resolve_row(written)))
        for name, column in aims.items():
            field = _from_zero(fields[column]) if is_nips17 and header[column] in NIPS17_COLUMNS else fields[column]
            wanted[name].append((fields[files[0]], _target(name, field)))
    of = f"images.labels: {uri} is of the NIPS'17 competition"
    said = f"{of}: its TrueLabel and TargetClass are 1–1000, of which 1 is subtracted"
    known = {name: Labels(uri, found) for name, found in wanted.items()}
    return Labels(uri, rows, (said,) if is_nips17 else (), known)


def _target_column(uri: str, header: Sequence[str], name: str) -> int:
    """The position of a column of targets in the header."""
    places = [place for place, present in enumerate(header) if present == name.strip().lower()]
    if len(places) != 1:
        has = f"{len(places)} columns" if places else "no column"
        names = printable(", ".join(header), 200)
        raise InputError(f"images.labels: {uri} has {has} {name!r}, which target: names; its first row names {names}")
    return places[0]


def _target(column: str, field: str) -> Truth:
    if not field:
        return Truth(UNLABELED, f"no target: its {column} is empty")
    truth = resolve_row((field,))
    return Truth(truth.label, f"no target: its {column} is an {truth.problem}") if truth.problem else truth


def _list(uri: str, text: str) -> Labels:
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        listed = _LISTED.fullmatch(line.strip())
        if listed is None:
            said = printable(line.strip(), 100)
            raise InputError(
                f"images.labels: {uri}, line {number}: {said!r} is not a file and a class index, as the first is"
            )
        file, label = listed[1], int(listed[2])
        first, right = _FIRST_OF_ALL
        if label > _LAST_CLASS or (_stem(spelled(file)) == first and label != right):
            wrong = (
                f"a list must number classes 0–999 in the order of wnids, as caffe's val.txt, where {first} has {right}"
            )
            raise InputError(
                f"images.labels: {uri}, line {number}: {printable(file, 100)} has {listed[2][:20]}; {wrong}"
            )
        rows.append((file, resolve_row((str(label),))))
    return Labels(uri, rows, (f"images.labels: {uri} has no header; its numbers are taken as caffe's, 0–999",))


def _delimiter(text: str) -> str:
    """What separates a column of files from one of labels in the first line; a comma where nothing does."""
    first = text.lstrip().partition("\n")[0]
    for sign in ",;\t":
        names = {name.strip().strip('"').strip().lower() for name in first.split(sign)}
        if names & set(FILE_COLUMNS) and names & {*LABEL_COLUMNS, *NIPS17_COLUMNS[1:]}:
            return sign
    return ","


def _written(column: str, field: str) -> str:
    if column == "predictionstring":
        return field.partition(" ")[0]
    if column == NIPS17_COLUMNS[1]:
        return _from_zero(field)
    return field


def _from_zero(field: str) -> str:
    """A class that is numbered 1–1000, as one of 0–999."""
    return str(int(field) - 1) if re.fullmatch(r"[0-9]{1,9}", field) else field


def _columns(uri: str, kind: str, header: Sequence[str], accepted: tuple[str, ...]) -> list[int]:
    """Positions of the accepted columns in the header, the most trusted first."""
    found = [place for name in accepted for place, present in enumerate(header) if present == name]
    if not found:
        names = printable(", ".join(header), 200) if any(header) else "nothing"
        hint = "; is the row of names missing?" if any("." in each for each in header) else ""
        raise InputError(
            f"images.labels: {uri} has no {kind} column; its first row names {names}, "
            f"accepted are {', '.join(accepted)}{hint}"
        )
    return found


@lru_cache(2**12)  # to suggest classes takes 10 ms, and a wrong label often comes again
def resolve_row(written: tuple[str, ...]) -> Truth:
    """The class that one row names, in one column or several."""
    first, *others = written
    if not first:
        return Truth(UNLABELED, "unlabeled: its label is empty")
    meant = set(classes_called(first))
    for other in others:
        called = classes_called(other) if other else ()
        if meant and called and not meant & set(called):
            return Truth(
                UNLABELED, f"contradicted: labeled {printable(first, 50)} and {printable(other, 50)} in one row"
            )
        meant &= set(called) or meant
    try:
        return Truth(meant.pop() if len(meant) == 1 else resolve_class(first))
    except InputError as error:
        return Truth(UNLABELED, printable(error, 500))


def read_devkit(uri: str) -> dict[str, Truth]:
    """Reads the validation set's ground truth from the ILSVRC2012 development kit: image id → truth.

    The kit numbers the classes 1–1000 in an order of its own; its meta.mat tells which wnid each number means.

    Args:
        uri: ILSVRC2012_devkit_t12.tar.gz, or the data/meta.mat of the unpacked kit.

    Raises:
        InputError: the kit is damaged or incomplete.
    """
    try:
        meta, numbers = _unpacked(uri) if uri.endswith(DEVKIT_META) else _packed(uri)
        truths = _truth_by_number(meta)
        return {
            f"ILSVRC2012_val_{position:08d}": truths[int(number)]
            for position, number in enumerate(numbers.split(), start=1)
        }
    except InputError:
        raise
    except Exception as error:  # SciPy and tarfile raise many kinds on damaged bytes.
        raise InputError(f"images.devkit: {uri} is damaged: {said_by(error)}") from error


def _truth_by_number(meta: bytes) -> dict[int, Truth]:
    from scipy.io import loadmat  # noqa: PLC0415 - slow to import, and only this source needs it

    synsets = loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"]
    # Inner nodes of the hierarchy have children and are no classes of the challenge.
    return {
        int(synset["ILSVRC2012_ID"]): Truth(resolve_class(str(synset["WNID"])))
        for synset in synsets
        if synset["num_children"] == 0
    }


def _unpacked(uri: str) -> tuple[bytes, bytes]:
    return _read("devkit", uri), _read("devkit", uri.removesuffix(DEVKIT_META) + _DEVKIT_TRUTH)


def _packed(uri: str) -> tuple[bytes, bytes]:
    with tarfile.open(fileobj=io.BytesIO(_unzipped(uri)), mode="r:") as archive:
        found = {
            wanted: archive.extractfile(member)
            for member in archive
            for wanted in (DEVKIT_META, _DEVKIT_TRUTH)
            if member.isreg() and f"/{member.name}".endswith(f"/{wanted}")
        }
        files = [found.get(wanted) for wanted in (DEVKIT_META, _DEVKIT_TRUTH)]
        meta, numbers = (file.read() if file else b"" for file in files)
    if not meta or not numbers:
        raise InputError(f"images.devkit: {uri} lacks {DEVKIT_META if not meta else _DEVKIT_TRUTH}")
    return meta, numbers


def _unzipped(uri: str) -> bytes:
    data = _read("devkit", uri)
    if not data.startswith(_GZIP):
        return data
    with gzip.open(io.BytesIO(data)) as file:
        unzipped = file.read(_MAX_BYTES + 1)
    if len(unzipped) > _MAX_BYTES:  # a gigabyte of zeros is a megabyte of gzip
        raise InputError(f"images.devkit: {uri} unpacks to more than {_MAX_BYTES} bytes, and is no development kit")
    return unzipped


def _read(key: str, uri: str) -> bytes:
    try:
        return read_bytes(uri, _MAX_BYTES)
    except (OSError, StoppedError) as error:
        raise InputError(f"images.{key}: {uri} cannot be read: {said_by(error)}") from error
