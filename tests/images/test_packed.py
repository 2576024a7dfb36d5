"""Images packed many to a file: WebDataset's archives and Hugging Face's Parquet files, made by hand here as those
libraries make them."""

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from pipeline.config.images import ImagesConfig
from pipeline.images.manifest import list_images
from pipeline.images.packed import parquet_images, webdataset_images
from tests.support.runs import label_of, rows, run, sample_files, tiny, written
from transforms.data.chunks import UNLABELED, ImageRef
from transforms.data.decode import BadImage, CanvasSpec
from transforms.errors import InputError
from transforms.storage import images
from transforms.storage import parquet_images as storage
from transforms.storage.images import image_bytes, read_image

Members = Sequence[tuple[str, bytes]]


def archive(path: Path, members: Members) -> Path:
    """A tar archive, as `tar` and WebDataset's TarWriter write it."""
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def dataset(
    path: Path,
    images: Sequence[bytes | None],
    labels: Sequence[Any],
    paths: Sequence[str | None] | None = None,
    names: Sequence[str] = (),
) -> Path:
    """A Parquet file as `datasets.Dataset.to_parquet` writes it, in row groups of two."""
    structures = [
        {"bytes": data, "path": name} for data, name in zip(images, paths or [None] * len(images), strict=True)
    ]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    features = {"image": {"_type": "Image"}, "label": {"names": list(names), "_type": "ClassLabel"}}
    known = {b"huggingface": json.dumps({"info": {"features": features}}).encode()} if names else None
    table = pa.table({"image": pa.array(structures, kind), "label": pa.array(labels)}).replace_schema_metadata(known)
    pq.write_table(table, path, row_group_size=2)
    return path


def encoded() -> list[bytes]:
    return [file.read_bytes() for file in sample_files()[:3]]


def found(refs: Sequence[ImageRef]) -> list[tuple[str, int]]:
    return [(ref.image_id, ref.label) for ref in refs]


# --- WebDataset


def test_labels_of_an_archive_are_in_cls_or_in_json(tmp_path: Path) -> None:
    one, two, three = encoded()
    members = [("a.jpg", one), ("a.cls", b"7\n"), ("b.JPEG", two), ("b.json", b'{"label": 145, "width": 3}')]
    archive(tmp_path / "val-0000.tar", [*members, ("b.cls", b"145")])
    archive(tmp_path / "val-0001.tar", [("./deep/c.jpeg", three), ("./deep/c.cls", b"n02056570"), ("README", b"?")])
    refs = webdataset_images(str(tmp_path)).refs
    assert found(refs) == [("val-0000/a", 7), ("val-0000/b", 145), ("val-0001/deep/c", 145)]
    assert [image_bytes(ref) for ref in refs] == [one, two, three]


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ([], "unlabeled: nothing says which class it shows"),
        ([("a.cls", b"")], "unlabeled: nothing says"),
        ([("a.cls", b"7"), ("a.json", b'{"label": 8}')], "contradicted: labeled 7 and 8"),
        ([("a.cls", b"1000")], "an index is in 0.999"),
        ([("a.cls", b"\xff\xfe")], "unknown class"),
        ([("a.json", b"[" * 100_000)], "unlabeled"),
        ([("a.json", b"[7]")], "unlabeled"),
        ([("a.json", b'{"label": [7]}')], "unlabeled"),
        ([("a.cls", b"7" * 2**21)], "unlabeled"),
        ([("b.cls", b"7")], "unlabeled"),
    ],
)
def test_what_an_archive_does_not_say_is_that_images_problem(members: Members, problem: str, tmp_path: Path) -> None:
    path = archive(tmp_path / "val.tar", [("a.jpg", encoded()[0]), *members])
    (ref,) = webdataset_images(str(path)).refs
    assert ref.label == -1
    with pytest.raises(BadImage, match=problem):
        image_bytes(ref)


def test_pictures_beside_the_images_are_counted(tmp_path: Path) -> None:
    one = encoded()[0]
    path = archive(tmp_path / "val.tar", [("a.jpg", one), ("a.cls", b"7"), ("a.mask.png", one), ("a.seg.png", one)])
    refs, notes = webdataset_images(str(path))
    assert found(refs) == [("val/a", 7)]
    (note,) = notes
    assert "1 .mask.png, 1 .seg.png" in note


# --- Parquet


def test_a_row_is_an_image(tmp_path: Path) -> None:
    images = encoded()
    dataset(tmp_path / "val-00000-of-00002.parquet", images, [7, 8, -1], ["x.JPEG", "/home/me/y.JPEG", "z.JPEG"])
    dataset(tmp_path / "val-00001-of-00002.parquet", images[:1], ["king penguin"])
    refs = parquet_images(str(tmp_path)).refs
    assert found(refs) == [("x", 7), ("home/me/y", 8), ("z", -1), ("val-00001-of-00002/00000", 145)]
    assert "unlabeled" in refs[2].problem
    assert [image_bytes(ref) for ref in refs if not ref.problem] == [*images[:2], images[0]]
    with pytest.raises(OSError, match="has 1 rows, and none is number 1"):
        storage.read_row(str(tmp_path / "val-00001-of-00002.parquet"), 1)


def test_numbers_are_of_the_classes_that_the_file_names(tmp_path: Path) -> None:
    """As in parts of ImageNet, whose numbers are their own."""
    names = ["king penguin, Aptenodytes patagonica", "n01440764", "no such thing", "crane"]
    path = dataset(tmp_path / "val.parquet", [encoded()[0]] * 5, [0, 1, 2, 3, 4], names=names)
    refs = parquet_images(str(path)).refs
    assert [ref.label for ref in refs] == [145, 0, -1, -1, -1]
    assert "unknown class 'no such thing'" in refs[2].problem
    assert "crane" in refs[3].problem
    assert "unlabeled" in refs[4].problem


def test_all_thousand_numbers_must_agree_with_their_names(tmp_path: Path) -> None:
    names = [f"whatever {number}" for number in range(1000)]
    names[134], names[145], names[7] = "crane", "king penguin", "tench"
    path = dataset(tmp_path / "val.parquet", [encoded()[0]] * 3, [134, 145, 7], names=names)
    refs = parquet_images(str(path)).refs
    assert [ref.label for ref in refs] == [134, 145, -1]
    assert "contradicted: labeled 7 and tench" in refs[2].problem


def test_a_row_without_bytes_is_a_failure_and_leads_nowhere_else(tmp_path: Path) -> None:
    """A path is a name: no file is read by it."""
    path = dataset(tmp_path / "val.parquet", [None], [7], [str(sample_files()[0])])
    (ref,) = parquet_images(str(path)).refs
    with pytest.raises(BadImage, match="row 0 holds no bytes of an image, perhaps a path only"):
        image_bytes(ref)


def test_what_would_take_too_much_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_MAX_GROUP", 2**20)
    path = dataset(tmp_path / "bomb.parquet", [bytes(2**22)], [7])
    assert path.stat().st_size < 2**20
    (ref,) = parquet_images(str(path)).refs
    with pytest.raises(BadImage, match=r"row group 0 holds .* bytes of images"):
        image_bytes(ref)


def test_an_image_in_a_row_is_as_large_as_one_in_a_file_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_MAX_BYTES", 9)
    path = dataset(tmp_path / "val.parquet", [bytes(9), bytes(10)], [7, 8])
    most, more = parquet_images(str(path)).refs
    assert image_bytes(most) == bytes(9)
    with pytest.raises(BadImage, match="larger than 9 bytes"):
        image_bytes(more)


def test_a_file_that_is_damaged_after_it_was_listed(tmp_path: Path) -> None:
    path = dataset(tmp_path / "val.parquet", encoded(), [1, 2, 3])
    refs = parquet_images(str(path)).refs
    path.write_bytes(b"PAR1 and no more PAR1")
    with pytest.raises(BadImage, match="is no Parquet file of images"):
        image_bytes(refs[0])


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ({"image": [b"x"]}, "has no column of labels; it has image"),
        ({"image": ["x"], "label": [1]}, "has no column of images; it has image, label"),
        ({"picture": [b"x"], "label": [1]}, "has no column of images"),
    ],
)
def test_files_without_images_or_labels_are_refused(table: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    pq.write_table(pa.table(table), tmp_path / "val.parquet")
    with pytest.raises(InputError, match=complaint):
        parquet_images(str(tmp_path / "val.parquet"))


def test_plain_bytes_are_images_too(tmp_path: Path) -> None:
    pq.write_table(pa.table({"img": encoded(), "wnid": ["n01440764"] * 3}), tmp_path / "val.parquet")
    refs = parquet_images(str(tmp_path)).refs
    assert found(refs) == [(f"val/0000{number}", 0) for number in range(3)]
    assert image_bytes(refs[1]) == encoded()[1]


# --- both


@pytest.mark.parametrize(("key", "suffix"), [("webdataset", ".tar"), ("parquet", ".parquet")])
def test_one_set_is_meant(key: str, suffix: str, tmp_path: Path) -> None:
    def listed(path: str) -> list[str]:
        refs, _ = list_images(ImagesConfig.model_validate({key: path}), seed=0)
        return [ref.image_id for ref in refs]

    with pytest.raises(InputError, match=f"images.{key}: .*does not exist"):
        listed(str(tmp_path / "nowhere"))
    (tmp_path / "other.csv").touch()
    with pytest.raises(InputError, match=rf"images.{key}: .*is no \{suffix} file; give an? .*{suffix}.*, a folder of"):
        listed(str(tmp_path / "other.csv"))
    (tmp_path / f"packed{suffix}").touch()
    reads = "images.webdataset and pictures" if key == "webdataset" else "images.parquet reads such files"
    with pytest.raises(InputError, match=rf"images.folder: .*is not a folder; .*{reads}"):
        list_images(ImagesConfig(folder=str(tmp_path / f"packed{suffix}")), seed=0)
    (tmp_path / f"packed{suffix}").unlink()
    with pytest.raises(InputError, match=rf"images.{key}: no file \{suffix} in"):
        listed(str(tmp_path))
    for name in ("train-00", "train-01", "val-00", ".hidden"):
        if key == "parquet":
            dataset(tmp_path / f"{name}{suffix}", encoded()[:1], [7])
        else:
            archive(tmp_path / f"{name}{suffix}", [("00000.jpg", encoded()[0]), ("00000.cls", b"7")])
    with pytest.raises(InputError, match=r"holds files of 2 sets, train, val; give one of them as .*/val\*"):
        listed(str(tmp_path))
    assert listed(f"{tmp_path}/train-*{suffix}") == ["train-00/00000", "train-01/00000"]
    assert listed(f"{tmp_path}/val*") == listed(f"{tmp_path}/val-00{suffix}") == ["val-00/00000"]
    (tmp_path / f"val-00{suffix}").write_bytes(b"no such thing")
    with pytest.raises(InputError, match=f"images.{key}: "):
        listed(f"{tmp_path}/val*")
    with pytest.raises(ValidationError, match="bring their own labels"):
        ImagesConfig.model_validate({key: str(tmp_path), "labels": "labels.csv"})


def test_where_a_model_says_the_labels_none_is_needed(tmp_path: Path) -> None:
    """Those that are there do not count."""
    one, two, _ = encoded()
    archive(tmp_path / "val.tar", [("a.jpg", one), ("a.cls", b"7"), ("b.jpg", two)])
    bare = pq.read_table(dataset(tmp_path / "val.parquet", [one, two], [7, 8])).drop(["label"])
    pq.write_table(bare, tmp_path / "bare.parquet")
    for key, name in (("webdataset", "val.tar"), ("parquet", "val.parquet"), ("parquet", "bare.parquet")):
        config = ImagesConfig.model_validate({key: str(tmp_path / name), "labels": {"predicted-by": "lite0"}})
        refs = list_images(config, 0).refs
        assert [(ref.label, ref.problem) for ref in refs] == [(UNLABELED, "")] * 2
    with pytest.raises(InputError, match="has no column of labels"):
        parquet_images(str(tmp_path / "bare.parquet"))


@pytest.mark.system
@pytest.mark.parametrize("key", ["webdataset", "parquet"])
def test_rows_are_those_of_the_same_images_in_a_folder(key: str, tmp_path: Path) -> None:
    files = sample_files()[:3]
    if key == "parquet":
        path = dataset(tmp_path / "val.parquet", encoded(), [label_of(file) for file in files], [f.name for f in files])
    else:
        members = [
            member
            for file in files
            for member in ((file.name, file.read_bytes()), (f"{file.stem}.cls", str(label_of(file)).encode()))
        ]
        path = archive(tmp_path / "val.tar", members)
    run(written(tmp_path, tiny()), tmp_path / "samples")
    run(written(tmp_path, tiny(images={key: str(path)}), "packed.yaml"), tmp_path / "run")
    for table in ("images", "canvases"):
        kept = ("label", "sha256", "attack", "png")
        one, other = (
            [{name: row[name] for name in kept if name in row} for row in rows(tmp_path / output, table)]
            for output in ("samples", "run")
        )
        clean = [row for row in one if row.get("attack", "none") == "none"]
        assert clean == [row for row in other if row.get("attack", "none") == "none"]
        assert len(clean) == 3


def test_pixels_are_decoded_alike(tmp_path: Path) -> None:
    (ref, *_) = parquet_images(str(dataset(tmp_path / "val.parquet", encoded(), [1, 2, 3]))).refs
    alone = ImageRef("alone", str(sample_files()[0]), 1)
    one, other = (read_image(each, CanvasSpec(256, 224))[1].canvas for each in (ref, alone))
    assert np.array_equal(one, other)
