"""Image references and the fixed chunks they travel in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple

UNLABELED = -1


class Truth(NamedTuple):
    """The class index of an image, 0–999 or `UNLABELED`, and why it is not known ("" if it is)."""

    label: int
    problem: str = ""


@dataclass(frozen=True, slots=True)
class ImageRef:
    """A few bytes that stand for an image; pixels are read from `uri` where they are needed.

    Attributes:
        image_id: unique name of the image in its experiment.
        uri: where the encoded bytes are, on any filesystem that Beam speaks. A `#bytes=FIRST-LAST` suffix
            (inclusive, as in HTTP's Range) names a slice of a file, such as a member of a tar archive.
        label: ImageNet class index, 0–999, or `UNLABELED`.
        problem: why the image cannot be used, known from the listing alone ("" if nothing is wrong). Such a ref
            keeps its place in its chunk and ends as a row of `failures`.
        targets: of each column of the labels CSV that an attack takes its targets from, the name and the class.
    """

    image_id: str
    uri: str
    label: int
    problem: str = ""
    targets: tuple[tuple[str, Truth], ...] = ()


@dataclass(frozen=True, slots=True)
class Picture:
    """A reference to what another tool has made of an image.

    Attributes:
        uri: where the encoded bytes are, as of an `ImageRef`.
        sha256: of these bytes, hexadecimal.
        problem: why it cannot be used, known from the listing alone ("" if nothing is wrong).
    """

    uri: str
    sha256: str
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A fixed slice of the sorted manifest: the unit in which images are loaded, attacked and evaluated."""

    index: int
    refs: tuple[ImageRef, ...]


@dataclass(frozen=True, slots=True)
class Work:
    """A chunk with what is left to do for it.

    Attributes:
        chunk: of the images.
        attacks: names of the attacks, `none` for the clean images among them, of which something is missing.
    """

    chunk: Chunk
    attacks: frozenset[str]


@dataclass(frozen=True)
class Material:
    """What attacks take besides canvases and models.

    Attributes:
        pool: images that they may mix in.
        pictures: by the name of an attack that another tool has made, and by image id: what it has made of the image.
    """

    pool: Sequence[ImageRef] = ()
    pictures: Mapping[str, Mapping[str, Picture]] = field(default_factory=dict)


def one_of_each_class(refs: Sequence[ImageRef], seed: int, most: int = 16) -> tuple[ImageRef, ...]:
    """Usable images of different classes, drawn by the seed: the same ones whatever the chunks."""
    shuffled = sorted(refs, key=lambda ref: blake2b(f"{seed}\0{ref.image_id}".encode()).digest())
    chosen: dict[int, ImageRef] = {}
    for ref in shuffled:
        if not ref.problem and ref.label != UNLABELED and len(chosen) < most:
            chosen.setdefault(ref.label, ref)
    return tuple(chosen.values())


def make_chunks(refs: Sequence[ImageRef], size: int) -> tuple[Chunk, ...]:
    """Slices refs, sorted by image id and uri, into chunks of `size`: the same chunks on every runner."""
    ordered = sorted(refs, key=lambda ref: (ref.image_id, ref.uri))
    return tuple(
        Chunk(index, tuple(ordered[start : start + size])) for index, start in enumerate(range(0, len(ordered), size))
    )
