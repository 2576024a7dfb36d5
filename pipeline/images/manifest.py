"""The manifest: from the experiment's `images:` section to the refs of the images it means."""

import os
import posixpath
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import replace
from difflib import get_close_matches
from hashlib import sha256

from pipeline.config.images import ImagesConfig
from pipeline.images.files import locate
from pipeline.images.labels import WNID, spelled, text_of
from pipeline.images.packed import parquet_images, webdataset_images
from pipeline.images.sources import Listing, folder_images, foolbox_samples, imagenet_images
from transforms.data.chunks import UNLABELED, ImageRef
from transforms.data.classes import class_wnid
from transforms.errors import InputError, StoppedError, said_by
from transforms.storage.files import absolute, read_bytes

_MAX_LIST_BYTES = 2**26


def list_images(config: ImagesConfig, seed: int, columns: Collection[str] = ()) -> Listing:
    """Lists the images that the experiment means, sorted by (image_id, uri). No pixel is read.

    An image that cannot be used keeps its ref, with the problem, except that `sample` does not draw it. Of several
    images with one id, the first usable one in sorted order is kept; the others get a problem that names it.

    Args:
        config: the `images:` section.
        seed: of the experiment; only `sample` uses it.
        columns: of the labels CSV, that hold targets of attacks.

    Raises:
        InputError: something named is missing, unreadable or empty, or matches no image, or none can be used.
    """
    listed = _source(config, columns)
    refs = sorted(map(_printable, listed.refs), key=_order)
    if config.select is not None:
        refs = _select(refs, _entries(config.select, _home(config)))
    refs = _mark_duplicates(refs)
    if config.sample is not None:
        refs = _sample(refs, config.sample, seed)
    refs = refs[: config.limit]
    if all(ref.problem for ref in refs):
        raise InputError(f"images: none of {len(refs)} can be used; {refs[0].image_id}: {refs[0].problem}")
    return Listing(refs, listed.notes)


def _printable(ref: ImageRef) -> ImageRef:
    """A file name that is no text, which Linux allows, cannot stand in a table: its ref says so instead."""
    try:
        (ref.image_id + ref.uri).encode()
    except UnicodeEncodeError:
        image_id, uri = (each.encode("utf-8", "backslashreplace").decode() for each in (ref.image_id, ref.uri))
        return ImageRef(image_id, uri, ref.label, "its file name is not UTF-8")
    return ref


def _source(config: ImagesConfig, columns: Collection[str]) -> Listing:
    labelled = config.labeller is None
    if config.folder is not None:
        return folder_images(config.folder, config.csv, columns, labelled=labelled)
    if config.imagenet is not None:
        return imagenet_images(config.imagenet, config.csv, config.devkit, columns)
    if config.webdataset is not None:
        return webdataset_images(config.webdataset, labelled=labelled)
    if config.parquet is not None:
        return parquet_images(config.parquet, labelled=labelled)
    return Listing(foolbox_samples())


def _home(config: ImagesConfig) -> str:
    """The folder beside which relative paths are looked for first."""
    path = absolute(config.folder or config.imagenet or config.webdataset or config.parquet or os.curdir)
    packed = config.folder is None and (path.endswith((".tar", ".parquet")) or "*" in path)
    return posixpath.dirname(path) if packed else path


def _entries(select: tuple[str, ...] | str, home: str) -> list[str]:
    entries = _read_list(locate("images.select", select, home)) if isinstance(select, str) else list(select)
    if not entries:
        raise InputError(f"images.select: {select!r} names no images")
    return entries


def _read_list(uri: str) -> list[str]:
    try:
        lines = text_of("select", uri, read_bytes(uri, _MAX_LIST_BYTES)).splitlines()
    except (OSError, StoppedError) as error:
        raise InputError(f"images.select: {uri} is not a readable text file: {said_by(error)}") from error
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def _select(refs: list[ImageRef], entries: list[str]) -> list[ImageRef]:
    """The refs that entries name: by id, by file name (the end of the uri), or by file name less extension (in a tar).

    WNID/NAME, as RobustBench's list of 5,000 has it, names an image that is not in a class folder, too.

    Raises:
        InputError: an entry names no image, or is a file name that several images have, or a WNID/NAME whose image has
            another class.
    """
    by_id: dict[str, set[ImageRef]] = defaultdict(set)
    by_name: dict[str, set[ImageRef]] = defaultdict(set)
    for ref in refs:
        by_id[spelled(ref.image_id)].add(ref)
        by_name[posixpath.basename(spelled(ref.uri))].add(ref)
    chosen = set[ImageRef]()
    for entry in entries:
        path = spelled(entry)
        named = {ref for ref in by_name.get(posixpath.basename(path), ()) if spelled(ref.uri).endswith(f"/{path}")}
        found = by_id.get(path) or named or by_id.get(posixpath.splitext(path)[0]) or _of_class(entry, path, by_id)
        if not found:
            raise _nothing_selected(entry, (*by_id, *by_name))
        if len({ref.image_id for ref in found}) > 1:
            raise InputError(f"images.select: {entry!r} is in {len(found)} folders; give one of {_ids(found)}")
        chosen |= found
    return sorted(chosen, key=_order)


def _of_class(entry: str, path: str, by_id: dict[str, set[ImageRef]]) -> set[ImageRef]:
    wnid, _, name = path.rpartition("/")
    if not WNID.fullmatch(wnid):
        return set()
    found = by_id.get(posixpath.splitext(name)[0], set())
    for ref in found:
        if ref.label != UNLABELED and class_wnid(ref.label) != wnid:
            raise InputError(f"images.select: {entry!r}: {ref.image_id} is of another class, {class_wnid(ref.label)}")
    return found


def _nothing_selected(entry: str, names: Iterable[str]) -> InputError:
    near = get_close_matches(entry, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else "give image ids or file names"
    return InputError(f"images.select: there is no image {entry!r}; {hint}")


def _ids(refs: Iterable[ImageRef]) -> str:
    return ", ".join(repr(ref.image_id) for ref in sorted(refs, key=_order)[:3])


def _mark_duplicates(refs: list[ImageRef]) -> list[ImageRef]:
    kept: dict[str, str] = {}
    for ref in refs:
        if not ref.problem:
            kept.setdefault(ref.image_id, ref.uri)
    return [
        ref
        if ref.problem or kept[ref.image_id] == ref.uri
        else replace(ref, problem=f"duplicate id: {kept[ref.image_id]} has it already")
        for ref in refs
    ]


def _sample(refs: list[ImageRef], count: int, seed: int) -> list[ImageRef]:
    """Draws usable refs: one of each class, in a random order of classes, then another of each, and so on.

    What is drawn depends on ids, labels and the seed alone, and a smaller sample is part of a larger one.
    """

    def draw(*key: object) -> bytes:
        return sha256(repr((seed, *key)).encode()).digest()

    by_class: dict[int, list[ImageRef]] = defaultdict(list)
    for ref in sorted((ref for ref in refs if not ref.problem), key=lambda ref: draw(ref.image_id)):
        by_class[ref.label].append(ref)
    rounds = [
        (turn, draw("class", label), ref) for label, members in by_class.items() for turn, ref in enumerate(members)
    ]
    if len(rounds) < count:
        raise InputError(f"images.sample: {count} images are asked for, {len(rounds)} are usable")
    drawn = sorted(rounds, key=lambda item: item[:2])[:count]
    return sorted((ref for *_, ref in drawn), key=_order)


def _order(ref: ImageRef) -> tuple[str, str]:
    return ref.image_id, ref.uri
