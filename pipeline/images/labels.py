"""True classes of images: from a labels CSV, or from the development kit of ILSVRC2012."""

import csv
import gzip
import io
import posixpath
import tarfile
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from transforms.data.chunks import UNLABELED
from transforms.data.classes import resolve_class
from transforms.errors import InputError, StoppedError, printable, said_by
from transforms.storage.files import read_bytes

FILE_COLUMNS = ("file", "filename", "image", "imageid")
LABEL_COLUMNS = ("label", "wnid", "class", "name", "predictionstring")

DEVKIT_META = "data/meta.mat"
_DEVKIT_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"
_GZIP = b"\x1f\x8b"
_MAX_BYTES = 2**26
"""Of a CSV, and of a development kit, packed or not; those of ImageNet have some 2 MB."""


class Truth(NamedTuple):
    """The class index of an image, 0–999 or `UNLABELED`, and why it is not known ("" if it is)."""

    label: int
    problem: str = ""


def read_labels(uri: str) -> dict[str, Truth]:
    """Reads a CSV of labels: file, as written in it → truth.

    The first row names the columns, in any case. The first present of `FILE_COLUMNS` names the image, the first
    present of `LABEL_COLUMNS` its class: an index, 0–999 (0-based: tench is 0), a wnid or a name; of a Kaggle
    PredictionString, its first word. A class that is empty, unknown or ambiguous is that image's problem, and so
    are two rows that give it different classes: neither is to be believed. Two equal rows count as one.

    Raises:
        InputError: the file is not a CSV in UTF-8, lacks one of the columns, or has a row that names no file.
    """
    truths: dict[str, Truth] = {}
    for file, written in _rows(uri):
        truth = _resolve(written)
        known = truths.setdefault(file, truth)
        if known != truth:
            truths[file] = Truth(UNLABELED, f"labeled more than once, differently, in {uri}")
    return truths


def _rows(uri: str) -> Iterator[tuple[str, str]]:
    """Pairs of a normalised file name and a written class."""
    try:
        reader = csv.DictReader(io.StringIO(_read("labels", uri).decode("utf-8-sig"), newline=""), strict=True)
        columns = {name.strip().lower(): name for name in reader.fieldnames or ()}
        file_column = _column(uri, "file", columns, FILE_COLUMNS)
        label_column = _column(uri, "label", columns, LABEL_COLUMNS)
        for row in reader:
            file = (row[columns[file_column]] or "").strip()
            written = (row[columns[label_column]] or "").strip()
            if not file:
                raise InputError(f"images.labels: {uri}, line {reader.line_num}: the column {file_column!r} is empty")
            yield posixpath.normpath(file), written.partition(" ")[0] if label_column == "predictionstring" else written
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"images.labels: {uri} is not a CSV in UTF-8: {error}") from error


def _column(uri: str, kind: str, present: dict[str, str], accepted: tuple[str, ...]) -> str:
    for name in accepted:
        if name in present:
            return name
    raise InputError(
        f"images.labels: {uri} has no {kind} column; its first row names "
        f"{printable(', '.join(present), 200) if present else 'nothing'}, accepted are {', '.join(accepted)}"
    )


@lru_cache(2**12)  # to suggest classes takes 10 ms, and a wrong label often comes again
def _resolve(written: str) -> Truth:
    if not written:
        return Truth(UNLABELED, "unlabeled: its label is empty")
    try:
        return Truth(resolve_class(written))
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
