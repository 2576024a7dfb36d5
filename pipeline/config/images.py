"""The `images:` section of an experiment."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PlainSerializer, PlainValidator, model_validator

from pipeline.config.base import Strict
from transforms.errors import InputError

_SOURCES = {
    "samples": "the foolbox samples",
    "folder": "pictures",
    "imagenet": "pictures",
    "webdataset": "WebDataset's archives",
    "parquet": "Parquet files of images",
}
"""Keys that say where images are, and what is there."""


_PREDICTED_BY = "predicted-by"


@dataclass(frozen=True)
class PredictedBy:
    """Labels are what a model says of the clean images, by its name."""

    model: str


def _labels(written: Any) -> str | PredictedBy | None:
    if written is None or isinstance(written, PredictedBy) or (isinstance(written, str) and written):
        return written
    if isinstance(written, dict) and set(written) == {_PREDICTED_BY} and isinstance(written[_PREDICTED_BY], str):
        return PredictedBy(written[_PREDICTED_BY])
    raise InputError(f"labels: {written!r} is neither the path of a CSV nor {{{_PREDICTED_BY}: MODEL}}")


def _labels_as_written(labels: str | PredictedBy | None) -> str | dict[str, str] | None:
    return {_PREDICTED_BY: labels.model} if isinstance(labels, PredictedBy) else labels


class ImagesConfig(Strict):
    """The `images:` section: one source, how it is labelled, and which of its images are meant.

    Attributes:
        samples: the 20 images inside foolbox's wheel.
        folder: a folder of the user's own (see `folder_images`).
        imagenet: the official validation set, folder or tar (see `imagenet_images`).
        webdataset: tar archives, with labels inside unless a model's predictions are taken (see `webdataset_images`).
        parquet: Parquet files, with labels inside likewise, such as Hugging Face's (see `parquet_images`).
        labels: CSV of labels, for `folder` and `imagenet`; or, for all but those two sources whose labels are known,
            `samples` and `imagenet`, the model whose predictions they are.
        devkit: development kit with the ground truth, for `imagenet`.
        select: image ids or file names, or the path of a text file with one per line (lines that start with `#` are
            comments), looked for beside the images, then in the current directory.
        sample: this many images, as even over the classes as they allow, drawn with the experiment's seed.
        limit: the first so many in sorted order. `select` comes first, then `sample`, then `limit`.
    """

    samples: Literal["foolbox"] | None = None
    folder: str | None = Field(default=None, min_length=1)
    imagenet: str | None = Field(default=None, min_length=1)
    webdataset: str | None = Field(default=None, min_length=1)
    parquet: str | None = Field(default=None, min_length=1)
    labels: Annotated[str | PredictedBy | None, PlainValidator(_labels), PlainSerializer(_labels_as_written)] = None
    devkit: str | None = Field(default=None, min_length=1)
    select: tuple[str, ...] | str | None = None
    sample: int | None = Field(default=None, ge=1, strict=True)
    limit: int | None = Field(default=None, ge=1, strict=True)

    @property
    def labeller(self) -> str | None:
        """The model whose predictions are the labels, where nothing else says which classes images show."""
        return self.labels.model if isinstance(self.labels, PredictedBy) else None

    @property
    def csv(self) -> str | None:
        """The CSV of labels."""
        return self.labels if isinstance(self.labels, str) else None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [key for key in _SOURCES if getattr(self, key) is not None]
        if len(given) != 1:
            raise InputError(f"give exactly one of {', '.join(_SOURCES)}; given: {', '.join(given) or 'none'}")
        if self.csv is not None and self.folder is None and self.imagenet is None:
            raise InputError(f"labels: {_SOURCES[given[0]]} bring their own labels; leave it out")
        if self.labeller is not None and (self.samples is not None or self.imagenet is not None):
            raise InputError(f"labels: {_SOURCES[given[0]]} have labels; {_PREDICTED_BY} is for images without any")
        if self.devkit is not None and (self.imagenet is None or self.labels is not None):
            raise InputError("devkit: is the ground truth for imagenet, where no labels are given; leave it out")
        return self
