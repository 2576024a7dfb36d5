"""The tables that a run writes: their columns, what these mean, and their partitions.

Partition columns stand in the path of a part (Hive style: `attack=mi4`), not in the file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa


@dataclass(frozen=True)
class Table:
    """A table's columns inside the files, the partition columns of its paths in order, and what each of them means."""

    columns: pa.Schema
    partitions: tuple[str, ...]
    meanings: Mapping[str, str]

    @property
    def schema(self) -> pa.Schema:
        """All columns as a reader sees them, partition columns last."""
        return pa.schema([*self.columns, *(pa.field(name, pa.string(), nullable=False) for name in self.partitions)])


@dataclass(frozen=True)
class _Optional:
    """A column that may be null."""

    type: pa.DataType


def _table(columns: Mapping[str, tuple[pa.DataType | _Optional, str]], /, **partitions: str) -> Table:
    """A table of required columns, unless declared optional, each with its meaning as in docs/tables.md."""
    fields = [
        pa.field(name, kind.type if isinstance(kind, _Optional) else kind, nullable=isinstance(kind, _Optional))
        for name, (kind, _) in columns.items()
    ]
    meanings = {name: meaning for name, (_, meaning) in columns.items()} | partitions
    return Table(pa.schema(fields), tuple(partitions), meanings)


TABLES = {
    "images": _table(
        {
            "image_id": (pa.string(), "unique in the experiment"),
            "uri": (pa.string(), "where the bytes were read"),
            "label": (pa.int16(), "true class"),
            "label_name": (pa.string(), "its name"),
            "width": (pa.int32(), "of the upright original, pixels"),
            "height": (pa.int32(), "of the upright original, pixels"),
            "bytes_sha256": (pa.string(), "of the encoded file"),
            "labelled_by": (_Optional(pa.string()), "the model whose prediction the label is; null if it was given"),
        },
    ),
    "attacks": _table(
        {
            "image_id": (pa.string(), "as in `images`"),
            "recipe": (pa.string(), "the literature's name"),
            "surrogates": (pa.list_(pa.string()), "models whose gradients were followed, or that judge `pictures`"),
            "fuse": (
                _Optional(pa.string()),
                "what is averaged over several surrogates; drawn: nothing, one is followed in each step",
            ),
            "victim": (_Optional(pa.string()), "the model that the attack asked about what it made"),
            "view": (pa.string(), "how the surrogates looked at the canvas"),
            "through": (pa.string(), "the defence that the attack knows, as in `defense`, or `none`"),
            "objective": (_Optional(pa.string()), "what was maximised, if the recipe leaves a choice"),
            "label": (pa.int16(), "true class"),
            "target": (_Optional(pa.int16()), "target class of a targeted attack"),
            "norm": (_Optional(pa.string()), "`linf`, `l2` or `l1`; null if the attack bounds no norm"),
            "eps": (_Optional(pa.float64()), "budget, a length in the norm; null likewise"),
            "steps": (_Optional(pa.int32()), "iterations per restart; null for a cascade"),
            "seed": (pa.int64(), "of the experiment"),
            "clean_predicted": (_Optional(pa.int16()), "most probable class of the clean canvas"),
            "clean_confidence": (_Optional(pa.float32()), "probability of clean_predicted"),
            "adversarial_predicted": (_Optional(pa.int16()), "most probable class of the adversarial canvas"),
            "adversarial_confidence": (_Optional(pa.float32()), "probability of adversarial_predicted"),
            "success": (_Optional(pa.bool_()), "adversarial_predicted is not the label; if targeted: is the target"),
            "minimal_norm": (_Optional(pa.float64()), "of a minimal-norm attack: the smallest norm found"),
            "linf": (pa.float64(), "largest change of a value"),
            "l2": (pa.float64(), "root of the sum of squared changes"),
            "l1": (pa.float64(), "sum of changes of values"),
            "l0": (pa.int32(), "pixels changed"),
            "psnr": (pa.float64(), "dB; infinite if nothing changed"),
            "ssim": (pa.float64(), "structural similarity, at most 1"),
            "ciede2000": (_Optional(pa.float64()), "colour difference, mean over all pixels"),
            "excess": (_Optional(pa.float64()), "of `pictures`: by how much the length is beyond eps; 0 within"),
            "out_of_band": (_Optional(pa.float64()), "of a band-limited attack: share of energy outside the band"),
            "forwards": (pa.int32(), "forward passes of a network over a window in the attack"),
            "backwards": (pa.int32(), "backward passes, likewise"),
            "queries": (_Optional(pa.int32()), "canvases that the victim was shown in the attack; no forwards"),
            "canvas_sha256": (pa.string(), "of the adversarial canvas"),
            "bounds": (_Optional(pa.string()), "budget of an attack that bounds no norm, as `max_flow=2`"),
            "rotation": (_Optional(pa.float64()), "of `spatial`: degrees, counter-clockwise"),
            "shift_x": (_Optional(pa.float64()), "of `spatial`: pixels to the right, after the rotation"),
            "shift_y": (_Optional(pa.float64()), "of `spatial`: pixels down, after the rotation"),
            "flow": (_Optional(pa.float64()), "of `stadv`: furthest that a pixel comes from, across or down, pixels"),
            "lpips": (_Optional(pa.float64()), "learned perceptual distance; null unless the experiment asks for it"),
        },
        attack="the experiment's name for it",
    ),
    "canvases": _table(
        {
            "image_id": (pa.string(), "as in `images`"),
            "canvas": (pa.binary(), "the 8-bit RGB picture as PNG: exactly what models were shown"),
            "canvas_sha256": (pa.string(), "of its pixels, in channel, row, column order"),
        },
        attack="as in `attacks`; `none`: clean",
    ),
    "predictions": _table(
        {
            "image_id": (pa.string(), "as in `images`"),
            "label": (pa.int16(), "true class"),
            "predicted": (pa.int16(), "most probable class; behind `smoothing`, the class that the votes chose"),
            "predicted_name": (pa.string(), "its name"),
            "confidence": (pa.float32(), "its probability"),
            "label_confidence": (pa.float32(), "probability of the label"),
            "target": (_Optional(pa.int16()), "target class of the attack"),
            "target_confidence": (_Optional(pa.float32()), "its probability"),
            "margin": (pa.float32(), "log p(label) − log p(most probable other class)"),
            "correct": (pa.bool_(), "predicted is the label, and there is no abstention"),
            "top5_labels": (pa.list_(pa.int16()), "most probable first"),
            "top5_confidences": (pa.list_(pa.float32()), "their probabilities"),
            "label_confidence_std": (_Optional(pa.float32()), "standard deviation of label_confidence over repeats"),
            "votes": (_Optional(pa.list_(pa.int16())), "most probable class of each repeat, in their order"),
            "agreement": (_Optional(pa.float32()), "share of repeats whose most probable class is predicted"),
            "abstained": (_Optional(pa.bool_()), "behind `smoothing`, whether the votes were too close"),
            "certified_radius": (_Optional(pa.float64()), "behind `smoothing`, the certified L2 radius"),
            "probabilities": (_Optional(pa.list_(pa.float32())), "all 1,000, with `all_probabilities: true`"),
        },
        attack="as in `attacks`; `none`: clean",
        model="the experiment's name for it",
        view="how the model looked at the canvas",
        defense="the defence before the model; `none`: undefended",
    ),
    "failures": _table(
        {
            "image_id": (pa.string(), "unique in the experiment"),
            "uri": (_Optional(pa.string()), "where an image was to be read"),
            "error_type": (pa.string(), "what kind of exception it was"),
            "message": (pa.string(), "the reason"),
            "attempt": (pa.int32(), "1, or 3 if three processes died of the image"),
        },
        stage="`load`, `attack` or `predict`",
        attack="what the failure concerns, as far as known",
        model="likewise",
        view="likewise",
        defense="likewise",
    ),
}


def rows_table(table: str, rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Rows of one part as an Arrow table with the table's columns; raises pyarrow.ArrowInvalid for a wrong type."""
    return pa.Table.from_pylist(list(rows), schema=TABLES[table].columns)
