"""Images that are packed many to a file, with or without labels: WebDataset's archives, Hugging Face's Parquet."""

import json
import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.images.files import exists, list_files, list_tar
from pipeline.images.labels import LABEL_COLUMNS, resolve_row
from pipeline.images.sources import IMAGE_SUFFIXES, Listing, image_ref, stem
from transforms.data.chunks import UNLABELED, ImageRef, Truth
from transforms.errors import InputError, said_by
from transforms.storage.files import absolute, is_remote, open_to_read
from transforms.storage.parquet_images import COLUMNS, image_column, row_uri
from transforms.storage.preflight import reach

_NUMBER = re.compile(r"[-_.]?[0-9]+(-of-[0-9]+)?$")
"""What tells the files of one set apart, as in validation-00003-of-00014."""
_LABEL_FILES = ("cls", "json")
_CLASSES = 1000


def webdataset_images(path: str, *, labelled: bool = True) -> Listing:
    """The images of WebDataset's tar archives, not unpacked.

    An image's id is ARCHIVE/KEY, where the key is what comes before the first dot of its name. Its label is in KEY.cls,
    or in KEY.json under `label`: an index, 0–999, a wnid or a name. If both are there, they must agree.

    Args:
        path: an archive, a folder of archives of one set, or a pattern such as `shards/imagenet-val-*.tar`.
        labelled: whether labels count. If not, refs are without, and that is no problem of theirs.

    Raises:
        InputError: there are no archives, or of several sets, one cannot be read, or there are no images.
    """
    refs, others = list[ImageRef](), Counter[str]()
    for archive in _packs("webdataset", path, ".tar"):
        files = list_tar("images.webdataset", archive, _is_label)
        for name, uri in files.uris.items():
            key, kind = _key(name)
            if f".{kind}" in IMAGE_SUFFIXES:
                refs.append(_ref(f"{stem(archive)}/{key}", uri, _truth(files.texts, key), labelled))
            elif any(f".{kind}".endswith(suffix) for suffix in IMAGE_SUFFIXES):
                others[f".{kind}"] += 1
    if not refs:
        raise InputError(f"images.webdataset: no images in {path}; looked for KEY.jpg and the like")
    counted = ", ".join(f"{count} {kind}" for kind, count in sorted(others.items()))
    return Listing(
        refs, (f"images.webdataset: pictures beside the images were passed over: {counted}",) if others else ()
    )


def parquet_images(path: str, *, labelled: bool = True) -> Listing:
    """The images of Parquet files such as Hugging Face's: a row each, with the columns `image` and `label`.

    An image's id is the path that its row names, without extension; where it names none, FILE/ROW. A label is an index,
    0–999, a wnid or a name. Where the file names its classes, as Hugging Face's do, a label is a number among those.

    Args:
        path: a file, a folder of files of one set, or a pattern such as `data/validation-*.parquet`.
        labelled: whether labels count, for which there must be a column then. If not, refs are without.

    Raises:
        InputError: there are no files, or of several sets, or one cannot be read or lacks one of the columns.
    """
    return Listing([ref for file in _packs("parquet", path, ".parquet") for ref in _rows(file, labelled)])


def _ref(image_id: str, uri: str, truth: Truth | None, labelled: bool) -> ImageRef:
    return image_ref(image_id, uri, truth) if labelled else ImageRef(image_id, uri, UNLABELED)


def _packs(key: str, path: str, suffix: str) -> list[str]:
    """The files that a path means: itself, those below a folder, or those of a pattern in one folder."""
    root = absolute(path)
    folder, pattern = posixpath.split(root)
    reach(f"images.{key}", folder if "*" in pattern else root)
    if "*" in pattern:
        names = [name for name in list_files(f"images.{key}", folder).uris if fnmatchcase(name, pattern)]
        found = [f"{folder}/{name}" for name in names]
    elif root.lower().endswith(suffix) and exists(f"images.{key}", root):
        found = [root]
    elif not is_remote(root) and not Path(root).is_dir():
        what = f"is no {suffix} file" if exists(f"images.{key}", root) else "does not exist"
        file = "an uncompressed .tar" if suffix == ".tar" else f"a {suffix} file"
        raise InputError(f"images.{key}: {root!r} {what}; give {file}, a folder of them, or a pattern with *")
    else:
        hidden = re.compile(r"(^|/)\.")
        found = [uri for name, uri in list_files(f"images.{key}", root).uris.items() if not hidden.search(name)]
    packs = [uri for uri in found if uri.lower().endswith(suffix)]
    if not packs:
        raise InputError(f"images.{key}: no file {suffix} in {root}; give one, a folder of them, or a pattern with *")
    sets = sorted({_NUMBER.sub("", stem(pack)) for pack in packs})
    if len(sets) > 1:
        raise InputError(
            f"images.{key}: {root} holds files of {len(sets)} sets, {', '.join(sets[:3])}; give one of them as "
            f"{posixpath.dirname(packs[0])}/{sets[-1]}*{suffix}"
        )
    return packs


def _key(name: str) -> tuple[str, str]:
    """WebDataset's key of a member, and what follows its first dot."""
    folder, file = posixpath.split(name)
    key, _, kind = file.partition(".")
    return posixpath.join(folder, key), kind.lower()


def _is_label(name: str) -> bool:
    return _key(name)[1] in _LABEL_FILES


def _truth(texts: Mapping[str, bytes], key: str) -> Truth | None:
    """What the files of a key say."""
    written = []
    if (text := texts.get(f"{key}.cls")) is not None:
        written.append(text.decode(errors="replace").strip())
    if (text := texts.get(f"{key}.json")) is not None:
        written.append(_label_of_json(text))
    return _resolved(written)


def _resolved(written: Sequence[str]) -> Truth | None:
    known = tuple(each for each in written if each)
    return resolve_row(known) if known else None


def _label_of_json(text: bytes) -> str:
    try:
        label = json.loads(text)["label"]
    except (ValueError, TypeError, LookupError, RecursionError):
        return ""
    return str(label) if isinstance(label, int | str) else ""


def _rows(file: str, labelled: bool) -> Iterator[ImageRef]:
    try:
        with open_to_read(file) as content:
            table = pq.ParquetFile(content)
            schema = table.schema_arrow
            column = image_column(schema)
            labels = [name for name in LABEL_COLUMNS if schema.names.count(name) == 1]
            if column is None or (labelled and not labels):
                kind, accepted = ("images", COLUMNS) if column is None else ("labels", LABEL_COLUMNS)
                raise InputError(
                    f"images.parquet: {file} has no column of {kind}; it has {', '.join(schema.names)}, "
                    f"accepted are {', '.join(accepted)}"
                )
            named = column.replace(".bytes", ".path")
            rows = table.read(columns=[named, *labels] if "." in column else labels).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"images.parquet: {file} cannot be read: {said_by(error)}") from error
    classes = {name: _class_names(schema, name) for name in labels}
    for number, row in enumerate(rows):
        path = (row.get(column.partition(".")[0]) or {}).get("path") if "." in column else None
        image_id = posixpath.splitext(path)[0].lstrip("/") if path else f"{stem(file)}/{number:05d}"
        written = [each for name in labels for each in _written(row[name], classes[name])]
        yield _ref(image_id, row_uri(file, number), _resolved(written), labelled)


def _written(label: object, classes: Sequence[str]) -> list[str]:
    """What a label says, as a table of labels would."""
    if isinstance(label, str) or (isinstance(label, int) and label >= 0 and not classes):
        return [str(label)]
    if not isinstance(label, int) or not 0 <= label < len(classes):  # -1 of a test set, for example
        return []
    names = classes[label].split(", ")  # as in "tench, Tinca tinca"
    # The numbers of a part of ImageNet's classes are its own.
    return [str(label), *names] if len(classes) == _CLASSES else names


def _class_names(schema: pa.Schema, column: str) -> list[str]:
    """The names of classes that Hugging Face writes beside a column of numbers; none where it does not."""
    try:
        features: Any = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[column]["names"]
    except (ValueError, TypeError, LookupError, RecursionError):
        return []
    return [str(name) for name in names] if isinstance(names, list) else []
