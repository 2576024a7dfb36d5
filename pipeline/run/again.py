"""What is made again although it is there: tasks in which images failed, where the user wants to retry them, and
whatever was made of rows that are lost and may come back differently."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import get_args

import numpy as np
import numpy.typing as npt

from pipeline.run.plan import Kind, Tasks
from transforms.data.chunks import Chunk, ImageRef
from transforms.data.decode import BadImage, CanvasSpec
from transforms.rows.parts import CLEAN, Part, attacks_part, canvases_part, file_of, images_part, table_file
from transforms.storage.images import read_image
from transforms.storage.store import Store

_Mask = npt.NDArray[np.bool_]
_ORDER = ("predictions", "failures", "attacks", "canvases", "images")


@dataclass(frozen=True, eq=False)
class Held:
    """What a run directory holds of an experiment.

    Attributes:
        store: the run directory.
        tasks: all that the experiment needs, or a shard's share of it.
        chunks: all of its images.
        canvas: how they become canvases.
        files: paths of the run's own files that are whole.
    """

    store: Store
    tasks: Tasks
    chunks: Sequence[Chunk]
    canvas: CanvasSpec
    files: Collection[str]

    def again(self, stages: Collection[str]) -> tuple[Part, ...]:
        """Parts that are there and to be removed, in this order: killed in between, a run leaves no row unexplained.

        Args:
            stages: of which failures are retried: load, attack, predict, or all.
        """
        kinds = get_args(Kind) if "all" in stages else stages
        chosen = self._with_dependents(self._failed(kinds) | self._lost()) & self._there[1] & self.tasks.chosen
        parts = [part for task in replace(self.tasks, chosen=chosen) for part in _made_by(task.parts)]
        there = sorted(filter(self._has, parts), key=lambda part: (_ORDER.index(part.table), part.path))
        return *self._idle_reasons(), *there

    @cached_property
    def _there(self) -> tuple[_Mask, _Mask]:
        """Tasks of which all parts are there, and those of which any part is."""
        return self.tasks.parts_in(self.files)

    def _has(self, part: Part) -> bool:
        return file_of(part, self.files) is not None

    def _failed(self, kinds: Collection[str]) -> _Mask:
        """Tasks in which images failed that may do better."""
        refs = {ref.image_id: (chunk.index, ref) for chunk in self.chunks for ref in chunk.refs if not ref.problem}
        columns = {
            (kind.kind, kind.attack, kind.model or CLEAN, kind.view or CLEAN, kind.defense or CLEAN): column
            for column, kind in enumerate(self.tasks.kinds)
        }
        chosen = np.zeros_like(self.tasks.chosen)
        for path in self.files:
            file = table_file(path)
            several = file.keys if file is not None and file.table == "failures" else ()
            wanted = [keys for keys in several if keys[0] in kinds and keys in columns]
            found = self.store.by_keys(path, ["image_id", "error_type"]) if wanted else {}
            for keys in wanted:
                for row in found[keys].to_pylist():
                    chunk, ref = refs.get(row["image_id"], (0, None))
                    if ref is not None and (keys[0] != "load" or self._may_load(ref, row["error_type"])):
                        chosen[chunk, columns[keys]] = True
        return chosen

    def _may_load(self, ref: ImageRef, reason: str) -> bool:
        """Whether a failed image was repaired; what has killed processes is not looked at here."""
        try:
            return reason == "ProcessDied" or bool(read_image(ref, self.canvas))
        except BadImage:
            return False

    def _lost(self) -> _Mask:
        """Tasks that lack a part, and in which images failed that may do better now, as far as can be known."""
        chosen = np.zeros_like(self.tasks.chosen)
        done, begun = self._there
        for column, kind in enumerate(self.tasks.kinds):
            if kind.kind != "predict":
                used = (begun & self._dependents(column)).any(axis=1)
                for chunk in np.flatnonzero(used & ~done[:, column]).tolist():
                    chosen[chunk, column] = not self._nobody_failed(kind.attack, chunk)
        return chosen

    def _nobody_failed(self, attack: str, chunk: int) -> bool:
        """Whether what is left of a task has every image that it was given."""
        given = {ref.image_id for ref in self.chunks[chunk].refs if not ref.problem}
        loaded = self._images_of(images_part(chunk)), self._images_of(canvases_part(chunk, CLEAN))
        if attack == CLEAN:
            return any(given <= images for images in loaded)
        attacked = self._images_of(attacks_part(chunk, attack)), self._images_of(canvases_part(chunk, attack))
        return any(given & (loaded[0] or loaded[1] or given) <= images for images in attacked)

    def _images_of(self, part: Part) -> set[str]:
        """The images that a part, or its group, has rows of; none where it is not there."""
        path = file_of(part, self.files)
        return set() if path is None else set(self.store.by_keys(path, ["image_id"])[part.keys]["image_id"].to_pylist())

    def _dependents(self, column: int) -> _Mask:
        """The kinds of task that look at what a kind of loading or attacking makes; bool (K,)."""
        made = self.tasks.kinds[column]
        after = [kind is not made and (made.kind == "load" or kind.attack == made.attack) for kind in self.tasks.kinds]
        return np.array(after)

    def _with_dependents(self, chosen: _Mask) -> _Mask:
        chosen = chosen.copy()
        for column, kind in enumerate(self.tasks.kinds):  # loading first, then the attacks
            if kind.kind != "predict":
                chosen |= chosen[:, column : column + 1] & self._dependents(column)
        return chosen

    def _idle_reasons(self) -> Iterator[Part]:
        """Failures of predictions that are to be made anyway."""
        for path in sorted(self.files):
            file = table_file(path)
            for part in file.parts if file is not None and file.table == "failures" else ():
                is_idle = part.keys[0] == "predict" and part.chunk < len(self.chunks)
                if is_idle and not self._has(Part("predictions", part.chunk, part.keys[1:])):
                    yield part


def _made_by(parts: Collection[Part]) -> Iterator[Part]:
    """Parts, and the failures that may be there beside predictions."""
    for part in parts:
        yield part
        if part.table == "predictions":
            yield Part("failures", part.chunk, ("predict", *part.keys))


def without(
    files: Collection[str], again: Collection[Part], chunks: int, groups: Collection[str] = ()
) -> tuple[set[str], set[str]]:
    """What is left of a run's files once some parts are removed, and the files of several parts that are taken apart.

    Args:
        again: parts among the files, also of files of several.
        chunks: how many there are.
        groups: compacted files that are taken apart in any case.
    """
    opened = {*groups, *(path for part in again if (path := file_of(part, files)) and path != part.path)}
    apart = {part.path for path in opened if (file := table_file(path)) for part in file.parts if part.chunk < chunks}
    return (set(files) - opened | apart) - {part.path for part in again}, opened
