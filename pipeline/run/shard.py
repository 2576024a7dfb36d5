"""Shards: fixed shares of a run's chunks, computed by different processes at once in one run directory."""

import re
from dataclasses import dataclass
from typing import Self

from pipeline.run.lock import LOCK, shard_lock
from transforms.errors import InputError
from transforms.rows.parts import table_file


@dataclass(frozen=True)
class Shard:
    """Every `of`-th chunk, beginning with the `number`-th; 1/1 is the whole run."""

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> Self:
        """The shard that `--shard K/N` means; raises InputError where that is none."""
        found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        number, of = (int(found[1]), int(found[2])) if found else (0, 0)
        if not 1 <= number <= of:
            raise InputError(f"--shard: {text!r} is no share; give K/N with 1 <= K <= N, as in 3/16")
        return cls(number, of)

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @property
    def is_whole(self) -> bool:
        """Whether it is the whole run."""
        return self.of == 1

    @property
    def lock(self) -> str:
        """The lock that it holds while it is at work."""
        return LOCK if self.is_whole else shard_lock(self.number, self.of)

    @property
    def slice(self) -> slice:
        """Its chunks, among all of the run's in order."""
        return slice(self.number - 1, None, self.of)

    def may_read(self, path: str) -> bool:
        """Whether a table's file holds rows of its chunks, as compacted files may; other shards change the rest."""
        file = table_file(path)
        return file is None or len(file.chunks) > 1 or file.chunks.start % self.of == self.number - 1


WHOLE = Shard()
