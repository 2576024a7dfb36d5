"""Random numbers keyed per image, so that an image's draws do not depend on its batch, worker or attempt."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


class Draws:
    """Random draws for a batch of images, keyed by (seed, image id, attack, step, draw)."""

    def __init__(self, seed: int, attack: str, image_ids: Sequence[str]) -> None:
        self._seed = seed
        self._attack = attack
        self._image_ids = tuple(image_ids)

    def uniform(self, shape: Sequence[int], *, step: int, draw: str) -> Tensor:
        """Uniform on [0, 1): float32 (B, *shape) on the CPU, the same on every device."""
        return torch.stack([torch.rand(tuple(shape), generator=each) for each in self._generators(step, draw)])

    def normal(self, shape: Sequence[int], *, step: int, draw: str) -> Tensor:
        """Standard normal: float32 (B, *shape) on the CPU, the same on every device."""
        return torch.stack([torch.randn(tuple(shape), generator=each) for each in self._generators(step, draw)])

    def _generators(self, step: int, draw: str) -> list[torch.Generator]:
        return [
            torch.Generator().manual_seed(_key(self._seed, image_id, self._attack, step, draw))
            for image_id in self._image_ids
        ]


def _key(*parts: object) -> int:
    digest = hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=8).digest()
    # torch takes seeds up to 2**64, but its documentation promises only signed 64 bits.
    return int.from_bytes(digest) >> 1
