"""Three places that images come from, each listed as refs with labels."""

import posixpath
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from importlib.util import find_spec
from types import MappingProxyType
from typing import NamedTuple

from pipeline.images.files import Files, exists, list_files, list_tar, locate
from pipeline.images.labels import DEVKIT_META, WNID, Labels, read_devkit, read_labels, spelled
from transforms.data.chunks import UNLABELED, ImageRef, Truth
from transforms.data.classes import classes_called, resolve_class
from transforms.data.decode import SUFFIXES, formats
from transforms.errors import InputError, printable
from transforms.storage.files import absolute
from transforms.storage.preflight import reach

IMAGE_SUFFIXES = frozenset(suffix for kind in formats() for suffix in SUFFIXES[kind])
_OTHER_SUFFIXES = re.compile(r"\.(jp2|j2k|jp[fx]|jxl|svg|ico|icns|tga|p[pgbn]m|psd|raw|dng|cr[23]|nef|arw|exr|hdr)")
"""Suffixes of picture formats that are not read. Such files are counted, like those of `SUFFIXES`."""
_THUMBNAILS = frozenset(("@eaDir", "@Recycle", "#recycle", "__MACOSX"))
"""Folders that network disks and archivers put beside pictures, with pictures of their own inside."""
_TEXTS = frozenset(("readme", "license", "licence", "copying", "makefile", "notice", "authors"))

_DEVKIT = "ILSVRC2012_devkit_t12"
_WNID_FOLDER = re.compile(f"({WNID.pattern})?")  # Or none: the flat layout.


class Listing(NamedTuple):
    """Images, and what the user should know of how they were found, one line each."""

    refs: list[ImageRef]
    notes: tuple[str, ...] = ()


def foolbox_samples() -> list[ImageRef]:
    """The 20 labelled ImageNet-validation images inside foolbox's wheel; foolbox itself is not imported.

    Raises:
        InputError: foolbox is not installed, or holds no such images.
    """
    spec = find_spec("foolbox")
    if spec is None or not spec.submodule_search_locations:
        raise InputError("images.samples: foolbox is not installed; pip install 'megalith[samples]'")
    files = list_files("images.samples", absolute(f"{spec.submodule_search_locations[0]}/data")).uris
    named = {uri: re.fullmatch(r"(imagenet_[0-9]+_([0-9]+))\.jpg", name) for name, uri in files.items()}
    refs = [ImageRef(match[1], uri, int(match[2])) for uri, match in named.items() if match]
    if not refs:
        raise InputError("images.samples: the installed foolbox holds no images; pip install 'megalith[samples]'")
    return refs


def folder_images(folder: str, labels: str | None, columns: Collection[str] = (), *, labelled: bool = True) -> Listing:
    """The images below a folder, labelled by a CSV or by the first sub-folder of their path.

    An image's id is its path relative to the folder, without extension. Hidden files and those without an extension
    of `IMAGE_SUFFIXES` are passed over, unless the CSV lists them. With a CSV, an image that it does not list and
    an entry that is not in the folder become refs with a problem. Without one, so does an image outside the class
    sub-folders; a sub-folder that holds images and is not named by a class is a wrong setup and refused.

    Args:
        folder: local (relative to the current directory) or remote.
        labels: the CSV (see `read_labels`): looked for in the folder, then in the current directory.
        columns: of the CSV, that hold targets of attacks.
        labelled: whether the images have labels. If not, refs are without, and that is no problem of theirs.

    Raises:
        InputError: the folder or the CSV is missing or unreadable, or there is no image, or no class at all.
    """
    root = absolute(folder)
    reach("images.folder", root)
    files = list_files("images.folder", root)
    csv_uri = None if labels is None else locate("images.labels", labels, root)
    labeled = None if csv_uri is None else read_labels(csv_uri, columns)
    listed = labeled.paths() if labeled else set()
    images = {name: uri for name, uri in files.uris.items() if spelled(name) in listed or is_image(name)}
    if not images:
        raise InputError(f"images.folder: no images in {root}; looked for {' '.join(sorted(IMAGE_SUFFIXES))}")
    if not labelled:
        refs = [ImageRef(id_of(name), uri, UNLABELED) for name, uri in images.items()]
    else:
        refs = _by_csv(root, images, labeled, files.again) if labeled else _by_sub_folder(root, images)
    return Listing(refs, (*(labeled.notes if labeled else ()), *_notes("folder", root, files, images)))


def imagenet_images(path: str, labels: str | None, devkit: str | None, columns: Collection[str] = ()) -> Listing:
    """The official validation set: its flat folder, its wnid sub-folders, or ILSVRC2012_img_val.tar, not unpacked.

    An image's id is its file name without extension in all three, so that ids agree. Images are NAME and WNID/NAME;
    what lies deeper is not looked at. Labels come from `labels` or else `devkit` or else, if all images have them,
    the wnid sub-folders, or else a devkit found beside the images or one folder up. Labels without an image are
    not missed: a part of the set is fine.

    Args:
        path: folder or tar archive, local (relative to the current directory) or remote.
        labels: CSV (see `read_labels`): looked for beside the images, then in the current directory.
        devkit: ILSVRC2012_devkit_t12.tar.gz or the unpacked kit's folder, looked for likewise.
        columns: of the CSV, that hold targets of attacks.

    Raises:
        InputError: something named is missing or unreadable, or there are no images, or there is no ground truth.
    """
    root = absolute(path)
    reach("images.imagenet", root)
    packed = root.endswith(".tar")
    files = list_tar("images.imagenet", root) if packed else list_files("images.imagenet", root)
    pictures = {name: uri for name, uri in files.uris.items() if is_image(name)}
    images = {name: uri for name, uri in pictures.items() if _WNID_FOLDER.fullmatch(_parent(name))}
    if not images:
        raise InputError(
            f"images.imagenet: no images in {root}; {_deeper(root, packed, list(pictures))}give a folder with "
            "ILSVRC2012_val_*.JPEG or wnid sub-folders, or the path of ILSVRC2012_img_val.tar"
        )
    home = posixpath.dirname(root) if packed else root
    labeled = None if labels is None else read_labels(locate("images.labels", labels, home), columns)
    truths = _by_name(labeled, list(images)) if labeled else _ground_truth(home, list(images), devkit)
    wanted = {column: _by_name(of, list(images)) for column, of in labeled.targets.items()} if labeled else {}
    refs = [
        image_ref(stem(name), uri, truths.get(name), {column: of.get(name) for column, of in wanted.items()})
        for name, uri in images.items()
    ]
    return Listing(refs, (*(labeled.notes if labeled else ()), *_notes("imagenet", root, files, images)))


def _deeper(root: str, packed: bool, pictures: list[str]) -> str:
    """Says where pictures are in a folder or an archive, none of which are where they should be."""
    above = {re.sub(f"(^|/){WNID.pattern}$", "", _parent(name)) for name in pictures}
    if len(above) != 1:
        return f"there are {len(pictures)} in other folders, such as {pictures[0]!r}; " if pictures else ""
    (place,) = above
    there = f"repack what is in {place}/" if packed else f"give {root}/{place}"
    return f"there are {len(pictures)} below {place}/ in it: {there}; "


def _notes(key: str, root: str, files: Files, images: Mapping[str, str]) -> Iterator[str]:
    """What the user should know of what is there and is not taken."""
    if files.again:
        name, first = next(iter(files.again.items()))
        yield printable(
            f"images.{key}: {len(files.again)} links in {root} lead to what is listed already and were passed over, "
            f"such as {name}, which is {first}"
        )
    kinds = Counter(kind for name in files.uris if name not in images and (kind := _kind(name)))
    if kinds:
        counted = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        yield printable(
            f"images.{key}: {kinds.total()} files in {root} that may be pictures were passed over: {counted}"
        )


def _kind(name: str) -> str:
    """As what a file that is not taken is counted; "" if it is no picture by its name."""
    *folders, file = name.split("/")
    suffix = posixpath.splitext(file)[1].lower()
    if not suffix and not file.startswith(".") and file.lower() not in _TEXTS:
        return "without an extension"
    if not _OTHER_SUFFIXES.fullmatch(suffix) and not any(suffix in each for each in SUFFIXES.values()):
        return ""
    if thumbnails := _THUMBNAILS.intersection(folders):
        return f"in {min(thumbnails)}"
    if any(part.startswith(".") for part in (*folders, file)):
        return "hidden"
    return suffix if suffix not in IMAGE_SUFFIXES else "in folders that no wnid names"


def _by_csv(root: str, images: Mapping[str, str], labels: Labels, again: Mapping[str, str]) -> list[ImageRef]:
    present = [
        image_ref(
            id_of(name), uri, labels.by_path(name), {column: of.by_path(name) for column, of in labels.targets.items()}
        )
        for name, uri in images.items()
    ]
    seen = {spelled(known) for name in images for known in (name, id_of(name))}
    links = {spelled(known): first for name, first in again.items() for known in (id_of(name), name)}
    absent = [
        ImageRef(
            id_of(name),
            f"{root}/{name}",
            truth.label,
            f"listed in {labels.uri}, but " + (f"a link to {links[name]}" if name in links else "not in the folder"),
        )
        for name in sorted(labels.paths() - seen)
        if (truth := labels.by_path(name))
    ]
    return present + absent


def _by_sub_folder(root: str, images: Mapping[str, str]) -> list[ImageRef]:
    folders = sorted({name.partition("/")[0] for name in images if "/" in name})
    if not folders:
        raise InputError(
            f"images.folder: nothing labels the images in {root}; give images.labels, a CSV with the columns "
            "file,label, or put them into sub-folders named by wnid, index or name"
        )
    truths = {folder: _truth_of_folder("folder", root, folder, images) for folder in folders}
    return [image_ref(id_of(name), uri, truths.get(name.partition("/")[0])) for name, uri in images.items()]


def _by_name(labels: Labels, names: list[str]) -> dict[str, Truth]:
    folders = Counter(stem for stem, _ in {(stem(spelled(name)), _parent(name)) for name in names})
    found = {name: labels.by_name(name, folders[stem(spelled(name))] == 1) for name in names}
    return {name: truth for name, truth in found.items() if truth}


def _ground_truth(home: str, names: list[str], devkit: str | None) -> dict[str, Truth]:
    """Truths by name for those of `names` that have one; `home` is the folder beside which files are looked for."""
    if devkit is None and all(map(_parent, names)):
        truths = {wnid: _truth_of_folder("imagenet", home, wnid) for wnid in sorted(set(map(_parent, names)))}
        return {name: truths[_parent(name)] for name in names}
    by_id = read_devkit(_find_devkit(home) if devkit is None else _locate_devkit(devkit, home))
    return {name: by_id[stem(name)] for name in names if stem(name) in by_id}


def _locate_devkit(devkit: str, home: str) -> str:
    packed = devkit.endswith((".tar.gz", ".tgz", ".tar"))
    return locate("images.devkit", devkit if packed else f"{devkit.rstrip('/')}/{DEVKIT_META}", home)


def _find_devkit(home: str) -> str:
    places = (home, posixpath.dirname(home))
    for place in places:
        for name in (f"{_DEVKIT}/{DEVKIT_META}", f"{_DEVKIT}.tar.gz"):
            if exists("images.imagenet", f"{place}/{name}"):
                return f"{place}/{name}"
    raise InputError(
        f"images.imagenet: no ground truth; put {_DEVKIT}.tar.gz into {' or '.join(places)}, or give images.devkit, "
        "its path, or images.labels, a CSV such as Kaggle's LOC_val_solution.csv"
    )


def _truth_of_folder(key: str, root: str, folder: str, names: Iterable[str] = ()) -> Truth:
    try:
        return Truth(resolve_class(folder))
    except InputError as error:
        inside = {name.split("/")[1] for name in names if name.count("/") > 1 and name.startswith(f"{folder}/")}
        if inside and all(map(classes_called, inside)):
            raise InputError(
                f"images.{key}: the {len(inside)} sub-folders of {root}/{folder} are named by classes, so give "
                f"{root}/{folder}"
            ) from error
        raise InputError(f"images.{key}: sub-folder {folder!r} of {root} must be named by a class: {error}") from error


def image_ref(
    image_id: str, uri: str, truth: Truth | None, targets: Mapping[str, Truth | None] = MappingProxyType({})
) -> ImageRef:
    """An image with its label, or with the problem that nothing says which class it shows.

    Args:
        targets: what columns of the labels CSV say of the image, by their names; None where they do not name it.
    """
    label, problem = truth or Truth(UNLABELED, "unlabeled: nothing says which class it shows")
    given = ((column, wanted or Truth(UNLABELED, "no target")) for column, wanted in targets.items())
    return ImageRef(image_id, uri, label, problem, tuple(given))


def is_image(name: str) -> bool:
    """Whether a path in a folder or an archive names an image, and no hidden file or thumbnail."""
    hidden = any(part.startswith(".") or part in _THUMBNAILS for part in name.split("/"))
    return not hidden and posixpath.splitext(name)[1].lower() in IMAGE_SUFFIXES


def id_of(name: str) -> str:
    """The id of an image: its path in a folder or an archive, without extension."""
    return posixpath.splitext(name)[0]


def stem(name: str) -> str:
    """A file's name without folder and extension."""
    return id_of(posixpath.basename(name))


def _parent(name: str) -> str:
    return posixpath.dirname(name)
