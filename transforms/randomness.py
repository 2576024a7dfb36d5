"""Random numbers keyed per image, so that an image's draws do not depend on its batch, worker or attempt."""

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class Draws:
    """Random draws for a batch of images, keyed by (seed, image id, attack or defence, step, draw).

    The step and the draw are a path of words and numbers: `draws.at("step", 3).at("copy", 1).uniform((3,), "shift")`.
    What is drawn depends on the whole path and on nothing else, above all not on what was drawn before.
    """

    def __init__(self, seed: int, name: str, image_ids: Sequence[str], path: tuple[object, ...] = ()) -> None:
        self._seed = seed
        self._name = name
        self._image_ids = tuple(image_ids)
        self._path = path

    def at(self, *path: object) -> "Draws":
        """The draws of a step, or of a part of one."""
        return Draws(self._seed, self._name, self._image_ids, (*self._path, *path))

    def of(self, image: int) -> "Draws":
        """The draws of one image of the batch, by its position: a batch of one."""
        return Draws(self._seed, self._name, [self._image_ids[image]], self._path)

    @property
    def shared(self) -> "Draws":
        """Draws for the attack or defence as a whole: a batch of one, the same for every image."""
        return Draws(self._seed, self._name, [""], self._path)

    def uniform(self, shape: Sequence[int], draw: str) -> Tensor:
        """Uniform on [0, 1): float32 (B, *shape) on the CPU, the same on every device."""
        return self._stack(draw, lambda generator: torch.rand(tuple(shape), generator=generator))

    def normal(self, shape: Sequence[int], draw: str) -> Tensor:
        """Standard normal: float32 (B, *shape) on the CPU, the same on every device."""
        return self._stack(draw, lambda generator: torch.randn(tuple(shape), generator=generator))

    def integers(self, below: int, shape: Sequence[int], draw: str) -> Tensor:
        """Uniform on 0 … below - 1: int64 (B, *shape) on the CPU."""
        return self._stack(draw, lambda generator: torch.randint(below, tuple(shape), generator=generator))

    def permutation(self, size: int, draw: str) -> Tensor:
        """The numbers 0 … size - 1 in random order: int64 (B, size) on the CPU."""
        return self._stack(draw, lambda generator: torch.randperm(size, generator=generator))

    def _stack(self, draw: str, sample: Callable[[torch.Generator], Tensor]) -> Tensor:
        keys = [_key(self._seed, image_id, self._name, *self._path, draw) for image_id in self._image_ids]
        drawn = [sample(torch.Generator().manual_seed(key)) for key in keys]
        return torch.stack(drawn) if drawn else sample(torch.Generator())[None][:0]


def _key(*parts: object) -> int:
    digest = hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=8).digest()
    # torch takes seeds up to 2**64, but its documentation promises only signed 64 bits, and its generator on the CPU
    # keeps the low 32 of them. So of millions of draws some are equal, mostly of different images: among 100,000 one
    # pair is expected, among a million a hundred. A row depends on its image alone all the same.
    return int.from_bytes(digest) >> 1
