"""The tables that a run writes: their columns and their partitions.

Partition columns stand in the path of a part (Hive style: `attack=mi4`), not in the file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa


@dataclass(frozen=True)
class Table:
    """A table's columns inside the files, and the partition columns of its paths in order."""

    columns: pa.Schema
    partitions: tuple[str, ...] = ()

    @property
    def schema(self) -> pa.Schema:
        """All columns as a reader sees them, partition columns last."""
        return pa.schema([*self.columns, *(pa.field(name, pa.string(), nullable=False) for name in self.partitions)])


@dataclass(frozen=True)
class _Optional:
    """A column that may be null."""

    type: pa.DataType


def _columns(**types: pa.DataType | _Optional) -> pa.Schema:
    """A schema of required columns, unless declared optional."""
    return pa.schema(
        pa.field(name, each.type if isinstance(each, _Optional) else each, nullable=isinstance(each, _Optional))
        for name, each in types.items()
    )


TABLES = {
    "images": Table(
        _columns(
            image_id=pa.string(),
            uri=pa.string(),
            label=pa.int16(),
            label_name=pa.string(),
            width=pa.int32(),
            height=pa.int32(),
            bytes_sha256=pa.string(),
        )
    ),
    "attacks": Table(
        _columns(
            image_id=pa.string(),
            recipe=pa.string(),
            surrogates=pa.list_(pa.string()),
            fuse=_Optional(pa.string()),
            view=pa.string(),
            through=pa.string(),
            objective=_Optional(pa.string()),
            label=pa.int16(),
            target=_Optional(pa.int16()),
            norm=pa.string(),
            eps=pa.float64(),
            steps=_Optional(pa.int32()),
            seed=pa.int64(),
            clean_predicted=pa.int16(),
            clean_confidence=pa.float32(),
            adversarial_predicted=pa.int16(),
            adversarial_confidence=pa.float32(),
            success=pa.bool_(),
            minimal_norm=_Optional(pa.float64()),
            linf=pa.float64(),
            l2=pa.float64(),
            l1=pa.float64(),
            l0=pa.int32(),
            psnr=pa.float64(),
            ssim=pa.float64(),
            out_of_band=_Optional(pa.float64()),
            forwards=pa.int32(),
            backwards=pa.int32(),
            canvas_sha256=pa.string(),
        ),
        partitions=("attack",),
    ),
    "canvases": Table(
        _columns(image_id=pa.string(), canvas=pa.binary(), canvas_sha256=pa.string()),
        partitions=("attack",),
    ),
    "predictions": Table(
        _columns(
            image_id=pa.string(),
            label=pa.int16(),
            predicted=pa.int16(),
            predicted_name=pa.string(),
            confidence=pa.float32(),
            label_confidence=pa.float32(),
            target=_Optional(pa.int16()),
            target_confidence=_Optional(pa.float32()),
            margin=pa.float32(),
            correct=pa.bool_(),
            top5_labels=pa.list_(pa.int16()),
            top5_confidences=pa.list_(pa.float32()),
            label_confidence_std=_Optional(pa.float32()),
            agreement=_Optional(pa.float32()),
            abstained=_Optional(pa.bool_()),
            certified_radius=_Optional(pa.float64()),
            probabilities=_Optional(pa.list_(pa.float32())),
        ),
        partitions=("attack", "model", "view", "defense"),
    ),
    "failures": Table(
        _columns(
            image_id=pa.string(),
            uri=_Optional(pa.string()),
            error_type=pa.string(),
            message=pa.string(),
            attempt=pa.int32(),
        ),
        partitions=("stage", "attack", "model", "view", "defense"),
    ),
}


def rows_table(table: str, rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Rows of one part as an Arrow table with the table's columns; raises pyarrow.ArrowInvalid for a wrong type."""
    return pa.Table.from_pylist(list(rows), schema=TABLES[table].columns)
