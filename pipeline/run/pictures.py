"""Pictures that other tools have made: listed, matched with the images of a run by name, and digested."""

import json
import posixpath
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config.experiment import Experiment
from pipeline.images.files import list_files, list_tar
from pipeline.images.sources import id_of, is_image, stem
from pipeline.results.record import own_files, read_record
from transforms.data.chunks import UNLABELED, ImageRef, Picture
from transforms.data.decode import BadImage
from transforms.errors import InputError, printable, said_by, unknown
from transforms.rows.parts import CLEAN, superseded, table_file
from transforms.storage.files import absolute
from transforms.storage.images import image_bytes
from transforms.storage.parquet_images import row_uri
from transforms.storage.preflight import reach
from transforms.storage.store import THREADS, Store


@dataclass(frozen=True)
class Pictures:
    """What another tool has made of the images of a run.

    Attributes:
        pictures: by image id; of an image without one, a picture with a problem.
        digest: of the names and the bytes of all pictures that are there, as `sha256:…`.
        notes: what the user should know, one line each.
    """

    pictures: Mapping[str, Picture]
    digest: str
    notes: tuple[str, ...]


def list_pictures(experiment: Experiment, refs: Sequence[ImageRef]) -> dict[str, Pictures]:
    """The pictures of each attack that another tool has made, by its name. All of them are read once, to be digested.

    A picture belongs to the image whose id is its path without extension, or else to the only one of its name.

    Args:
        refs: the images of the run.

    Raises:
        InputError: a folder, archive or run directory is missing or unreadable, or has no picture of any image.
        StoppedError: a disk or an object store does not give a picture.
    """
    found = {}
    for name, attack in experiment.attacks.items():
        if attack.recipe == "pictures":
            parameters = dict(attack.parameters)
            where = f"attacks.{name}.folder"
            uris = _uris(where, absolute(parameters["folder"]), parameters["attack"])
            found[name] = _matched(where, parameters["folder"], uris, [ref.image_id for ref in refs if not ref.problem])
    return found


def _uris(where: str, root: str, attack: str | None) -> dict[str, str]:
    """Where each picture is, by its path in a folder or an archive; in a run directory, by its image's id."""
    reach(where, root)
    store = Store(root)
    if not root.endswith(".tar") and (record := read_record(store)) is not None:
        paths = own_files(record.definitions, store.paths("canvases"))
        return _of_run(where, store, paths - superseded(paths), attack)
    if attack is not None:
        raise InputError(f"{where}: {root} is no run directory, so that attack: {attack} has no effect; leave it out")
    files = list_tar(where, root) if root.endswith(".tar") else list_files(where, root)
    return {name: uri for name, uri in files.uris.items() if is_image(name)}


def _of_run(where: str, store: Store, paths: Collection[str], attack: str | None) -> dict[str, str]:
    files = {path: file for path in sorted(paths) if (file := table_file(path)) and file.table == "canvases"}
    attack_of = {path: made_by for path, file in files.items() for (made_by,) in file.keys}
    attacks = sorted({*attack_of.values()} - {CLEAN})
    if attack is None and len(attacks) == 1:
        (attack,) = attacks
    if attack not in attacks:
        if attack is not None:
            raise unknown(f"attack in {store.root}:", attack, attacks)
        some = ", ".join(attacks) or "none"
        raise InputError(f"{where}: {store.root} has the canvases of {some}; say which one with attack:")
    uris: dict[str, str] = {}
    for path, made_by in attack_of.items():
        if made_by == attack:
            try:
                with store.open(path) as content:
                    ids = pq.ParquetFile(content).read(columns=["image_id"]).column(0).to_pylist()
            except (pa.ArrowException, OSError) as error:
                raise InputError(f"{where}: {store.root}/{path} cannot be read: {said_by(error)}") from None
            uris |= {f"{image_id}.png": row_uri(f"{store.root}/{path}", row) for row, image_id in enumerate(ids)}
    return uris


def _matched(where: str, folder: str, uris: Mapping[str, str], image_ids: Sequence[str]) -> Pictures:
    with ThreadPoolExecutor(THREADS) as threads:
        read = dict(zip(uris, threads.map(_read, uris.values()), strict=True))
    names = _names(list(uris), image_ids)
    pictures = {image_id: _one([read[name] for name in names[image_id]], names[image_id]) for image_id in image_ids}
    missing = [image_id for image_id in image_ids if not names[image_id]]
    if len(missing) == len(image_ids):
        some = f", such as {min(uris)!r}," if uris else ""
        raise InputError(
            printable(
                f"{where}: none of the {len(uris)} pictures in {folder}{some} has the name of an image, such as "
                f"{min(image_ids)!r}"
            )
        )
    said = sorted((id_of(name), picture.sha256) for name, picture in read.items())
    notes = []
    if missing:
        notes.append(printable(f"{where}: {len(missing)} images have no picture there, {missing[0]} among them"))
    unused = len(uris) - sum(map(len, names.values()))
    if unused:
        notes.append(f"{where}: {unused} of {len(uris)} pictures are of no image of the run")
    return Pictures(pictures, f"sha256:{sha256(json.dumps(said).encode()).hexdigest()}", tuple(notes))


def _names(pictures: Sequence[str], image_ids: Sequence[str]) -> dict[str, list[str]]:
    """For each image the pictures that have its id or, where none has, its name that no other image has."""
    by_id, by_name = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
    for name in pictures:
        by_id[id_of(name)].append(name)
        by_name[stem(name)].append(name)
    namesakes = Counter(map(posixpath.basename, image_ids))
    found = {}
    for image_id in image_ids:
        name = posixpath.basename(image_id)
        found[image_id] = by_id.get(image_id) or (by_name.get(name, []) if namesakes[name] == 1 else [])
    return found


def _read(uri: str) -> Picture:
    try:
        return Picture(uri, sha256(image_bytes(ImageRef("", uri, UNLABELED))).hexdigest())
    except BadImage as error:
        return Picture(uri, "", str(error))


def _one(pictures: Sequence[Picture], names: Sequence[str]) -> Picture:
    if len(pictures) == 1:
        return pictures[0]
    several = f"{len(pictures)} pictures have its name: {', '.join(sorted(names)[:3])}"
    return Picture("", "", printable(several) if pictures else "no picture has its name")
