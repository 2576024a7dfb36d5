"""The manifest: every source in small, against tarfile and torchvision's own devkit parser."""

import errno
import io
import os
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
import pytest
import torch
import torchvision.datasets.imagenet as oracle
from apache_beam.io.filesystem import FileMetadata
from apache_beam.io.localfilesystem import LocalFileSystem
from pydantic import ValidationError
from scipy.io import savemat

from pipeline.config.images import ImagesConfig
from pipeline.images.manifest import list_images
from tests.support.runs import forbid_listing
from transforms.data.chunks import UNLABELED, ImageRef
from transforms.data.classes import class_wnid, resolve_class
from transforms.errors import InputError
from transforms.storage.files import read_bytes

SAMPLE = Path(__file__).resolve().parents[3] / "shared" / "imagenet-sample"


def fill(folder: Path, *names: str, labels: str | None = None) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(f"bytes of {name}".encode())
    if labels is not None:
        (folder / "labels.csv").write_text(labels)
    return folder


def images(seed: int = 0, **config: Any) -> list[ImageRef]:
    given: dict[str, Any] = {key: str(value) if isinstance(value, Path) else value for key, value in config.items()}
    return list_images(ImagesConfig(**given), seed).refs


def notes(**config: Any) -> tuple[str, ...]:
    given: dict[str, Any] = {key: str(value) if isinstance(value, Path) else value for key, value in config.items()}
    return list_images(ImagesConfig(**given), 0).notes


def labels_of(refs: list[ImageRef]) -> dict[str, int]:
    assert [ref.problem for ref in refs] == [""] * len(refs)
    return {ref.image_id: ref.label for ref in refs}


def refused(match: str, **config: Any) -> None:
    with pytest.raises(InputError, match=match) as caught:
        images(**config)
    assert "\n" not in str(caught.value)


# --- foolbox's samples


def test_foolbox_samples_without_importing_foolbox() -> None:
    loaded = "foolbox" in sys.modules
    refs = images(samples="foolbox")
    assert len(refs) == 20
    assert labels_of(refs)["imagenet_00_243"] == 243
    assert all(ref.uri.endswith(f"/{ref.image_id}.jpg") and read_bytes(ref.uri, 2**20) for ref in refs)
    assert ("foolbox" in sys.modules) == loaded


def test_foolbox_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.images.sources.find_spec", lambda name: None)
    refused(r"pip install 'megalith\[samples\]'", samples="foolbox")


# --- a folder with a CSV


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the shared sample images are not here")
def test_the_shared_sample() -> None:
    refs = images(folder=SAMPLE, labels="labels.csv")
    assert len(refs) == 200
    assert all(class_wnid(ref.label) == ref.image_id.split("_")[0] for ref in refs)
    assert labels_of(refs)["n02056570_king_penguin"] == 145
    selected = images(folder=SAMPLE, labels="labels.csv", select=["n02056570_king_penguin.JPEG"])
    assert selected == [ref for ref in refs if ref.label == 145]


@pytest.mark.parametrize(
    "csv",
    [
        "file,label,wnid,name\na.jpg,145,n0,x\nb.PNG,0,n0,x\n",
        "\ufefffilename , LABEL,targeted_label\r\n./a.jpg, 145 ,3\r\n\r\nb.PNG,0,3\r\n",
        "ImageId,PredictionString\na,n02056570 3 4 5 6 n01440764 1 2 3 4\nb,n01440764 1 2 3 4\n",
        'image,class\n"a.jpg",king_penguin\nb.PNG,"Tinca tinca"\n',
    ],
)
def test_labels_of_every_known_shape(tmp_path: Path, csv: str) -> None:
    fill(tmp_path, "a.jpg", "b.PNG", "README.md", ".hidden.jpg", labels=csv)
    assert labels_of(images(folder=tmp_path, labels="labels.csv")) == {"a": 145, "b": 0}


def test_each_image_with_a_problem_keeps_its_ref(tmp_path: Path) -> None:
    given = "good 1,absent 1,empty ,bad peguin,crane crane,twice 1,twice 2,again 5,again 5"
    rows = "".join(f"{row.replace(' ', '.jpg,')}\n" for row in given.split(","))
    names = [f"{name}.jpg" for name in ("good", "empty", "bad", "crane", "twice", "again", "extra")]
    fill(tmp_path, *names, labels=f"file,label\n{rows}")
    refs = images(folder=tmp_path, labels="labels.csv")
    problems = {ref.image_id: ref.problem for ref in refs if ref.problem}
    assert labels_of([ref for ref in refs if not ref.problem]) == {"good": 1, "again": 5}
    expected = {
        "absent": "not in the folder",
        "empty": "label is empty",
        "bad": "unknown class 'peguin'",
        "crane": "ambiguous class",
        "twice": "more than once",
        "extra": "unlabeled",
    }
    assert problems.keys() == expected.keys()
    assert all(expected[key] in problems[key] for key in expected)
    assert {ref.label for ref in refs if ref.problem and ref.image_id != "absent"} == {UNLABELED}


def test_a_listed_file_counts_whatever_its_extension(tmp_path: Path) -> None:
    fill(tmp_path, "a.data", "b.data", labels="file,label\na.data,7\n")
    assert labels_of(images(folder=tmp_path, labels="labels.csv")) == {"a": 7}


def test_of_a_duplicate_id_the_first_usable_is_kept(tmp_path: Path) -> None:
    fill(tmp_path, "1.bmp", "1.jpg", "1.png", labels="file,label\n1.bmp,nonsense\n1.jpg,4\n1.png,5\n")
    bmp, jpg, png = images(folder=tmp_path, labels="labels.csv")
    assert "unknown class" in bmp.problem
    assert (jpg.label, jpg.problem) == (4, "")
    assert png.problem == f"duplicate id: {tmp_path}/1.jpg has it already"
    assert labels_of(images(folder=tmp_path, labels="labels.csv", select=["1.png"])) == {"1": 5}


def test_labels_are_looked_for_in_the_folder_then_in_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fill(tmp_path / "images", "a.jpg")
    monkeypatch.chdir(tmp_path)
    refused(
        r"images.labels: there is no 'labels.csv'; looked for .*images/labels.csv and ",
        folder="images",
        labels="labels.csv",
    )
    (tmp_path / "labels.csv").write_text("file,label\na.jpg,1\n")
    assert images(folder="images", labels="labels.csv") == [ImageRef("a", f"{folder}/a.jpg", 1)]
    (folder / "labels.csv").write_text("file,label\na.jpg,2\n")
    assert labels_of(images(folder="images", labels="labels.csv")) == {"a": 2}


@pytest.mark.parametrize(
    ("csv", "message"),
    [
        ("", "no file column; its first row names nothing"),
        ("a.jpg,1\n", "no file column; its first row names a.jpg, 1, .*; is the row of names missing\\?"),
        ("ImageId,TrueLabel\na,1\n", "no label column; .* accepted are label"),
        ("file,label\n,1\n", "line 2: the column 'file' is empty"),
        ('file,label\n"a,1\n', "not a CSV"),
    ],
)
def test_a_csv_that_is_no_labels_csv_is_refused(tmp_path: Path, csv: str, message: str) -> None:
    refused(message, folder=fill(tmp_path, "a.jpg", labels=csv), labels="labels.csv")


def test_a_csv_not_in_utf_8_is_refused(tmp_path: Path) -> None:
    (fill(tmp_path, "a.jpg") / "labels.csv").write_bytes(b"file,label\n\xff\xfe,1\n")
    refused("not a CSV in UTF-8", folder=tmp_path, labels="labels.csv")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_is_named(tmp_path: Path, encoding: str) -> None:
    mark = "" if encoding == "utf-16" else "\ufeff"
    fill(tmp_path, "a.jpg")
    (tmp_path / "labels.csv").write_bytes(f"{mark}file,label\na.jpg,1\n".encode(encoding))
    (tmp_path / "list.txt").write_bytes(f"{mark}a.jpg\n".encode(encoding))
    refused("images.labels: .* is UTF-16, .*save it as UTF-8", folder=tmp_path, labels="labels.csv")
    (tmp_path / "labels.csv").write_text("file,label\na.jpg,1\n")
    refused("images.select: .* is UTF-16", folder=tmp_path, labels="labels.csv", select="list.txt")


@pytest.mark.parametrize(
    ("csv", "reason"),
    [
        ("file,label,wnid\n1.jpg,1,n01440764\n", "contradicted: labeled 1 and n01440764 in one row"),
        ("file,wnid,name\n1.jpg,n01440764,king penguin\n", "contradicted"),
        ("file,label,label\n1.jpg,0,7\n", "contradicted"),
        ("file,label,Label\n1.jpg,0,7\n", "contradicted"),
        ("file,label,wnid\n1.jpg,missile,n02012849\n", "contradicted: labeled missile and n02012849"),
        ("file,label\n1.jpg,0\n1,5\n", "more than once"),
        ("file,label\n1.jpg,0\n./1.jpg,5\n", "more than once"),
        ("file,label,wnid\n1.jpg,,n01440764\n", "label is empty"),
    ],
)
def test_a_contradiction_is_that_images_problem(tmp_path: Path, csv: str, reason: str) -> None:
    fill(tmp_path, "1.jpg", "2.jpg", labels=f"{csv}2.jpg,2\n")
    contradicted, fine = images(folder=tmp_path, labels="labels.csv")
    assert contradicted.label == UNLABELED and reason in contradicted.problem
    assert (fine.label, fine.problem) == (2, "")


def test_two_columns_of_files_with_one_name_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg", labels="file,File,label\na.jpg,b.jpg,1\n")
    refused("images.labels: .* has 2 columns 'file'", folder=tmp_path, labels="labels.csv")


@pytest.mark.parametrize("row", ["crane,n02012849", "crane,crane bird", "crane,134"])
def test_an_ambiguous_name_is_what_another_column_says(tmp_path: Path, row: str) -> None:
    fill(tmp_path, "a.jpg", labels=f"file,label,class\na.jpg,{row}\n")
    assert labels_of(images(folder=tmp_path, labels="labels.csv")) == {"a": 134}


def test_equal_names_are_spelled_in_several_ways(tmp_path: Path) -> None:
    """A Mac decomposes what is typed; a spreadsheet on Windows has backslashes; each sees one file."""
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    fill(tmp_path, f"{composed}/1.jpg", f"{decomposed}/2.jpg")
    (tmp_path / "labels.csv").write_text(f"file,label\n{decomposed}\\1.jpg,3\n.\\{composed}\\2,4\n", encoding="utf-8")
    refs = images(folder=tmp_path, labels="labels.csv", select=[f"{decomposed}/1", f"{composed}\\2.jpg"])
    assert labels_of(refs) == {f"{composed}/1": 3, f"{decomposed}/2": 4}
    assert all(read_bytes(ref.uri, 100) for ref in refs)


@pytest.mark.parametrize("sign", [";", "\t"])
def test_semicolons_and_tabs_separate_columns_too(tmp_path: Path, sign: str) -> None:
    rows = ('"File"', "note", "label"), ("a.jpg", "x,y", "145"), ("b, c.jpg", "", "0")
    fill(tmp_path, "a.jpg", "b, c.jpg", labels="".join(f"{sign.join(row)}\r\n" for row in rows))
    assert labels_of(images(folder=tmp_path, labels="labels.csv")) == {"a": 145, "b, c": 0}


def test_the_nips17_competitions_labels_are_1_based(tmp_path: Path) -> None:
    header = "ImageId,URL,x1,y1,x2,y2,TrueLabel,TargetClass,OriginalLandingURL,License,Author,AuthorProfileURL"
    rows = "".join(
        f"{name},http://x,0,0,1,1,{label},9,,,,\n"
        for name, label in (("a", 1), ("b", 1000), ("c", 0), ("d", "9" * 5000))
    )
    fill(tmp_path, "a.png", "b.png", "c.png", "d.png", labels=f"{header}\n{rows}")
    a, b, c, d = images(folder=tmp_path, labels="labels.csv")
    assert (a.label, b.label) == (0, 999) and "unknown class" in c.problem and "unknown class" in d.problem
    (note,) = notes(folder=tmp_path, labels="labels.csv")
    assert note.endswith(
        "labels.csv is of the NIPS'17 competition: its TrueLabel and TargetClass are 1–1000, of which 1 is subtracted"
    )


# --- a folder with class sub-folders


def test_class_sub_folders_by_wnid_index_and_name(tmp_path: Path) -> None:
    fill(tmp_path, "n02056570/1.jpg", "649/1.jpg", "king_penguin/deep/er/1.jpg", "tench/1.TIFF", "notes/readme.txt")
    assert labels_of(images(folder=tmp_path)) == {
        "649/1": 649,
        "king_penguin/deep/er/1": 145,
        "n02056570/1": 145,
        "tench/1": 0,
    }


def test_an_image_outside_the_class_sub_folders_is_unlabeled(tmp_path: Path) -> None:
    inside, outside = images(folder=fill(tmp_path, "0/a.jpg", "b.jpg"))
    assert (inside.label, inside.problem) == (0, "")
    assert outside.label == UNLABELED and "unlabeled" in outside.problem


def test_linked_class_folders_are_followed(tmp_path: Path) -> None:
    fill(tmp_path / "store", "a.jpg")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "tench").symlink_to(tmp_path / "store")
    assert labels_of(images(folder=tmp_path / "set")) == {"tench/a": 0}


def test_links_in_circles_end_and_each_file_counts_once(tmp_path: Path) -> None:
    fill(tmp_path / "set", "tench/1.jpg", "tench/a/2.jpg", "tench/b/3.jpg")
    for link in ("me", "tench/loop", "tench/a/up", "tench/b/up"):
        (tmp_path / "set" / link).symlink_to("." if link == "me" else "..")
    assert labels_of(images(folder=tmp_path / "set")) == {"tench/1": 0, "tench/a/2": 0, "tench/b/3": 0}
    (note,) = notes(folder=tmp_path / "set")
    assert note.startswith("images.folder: 4 links in") and "such as me, which is the folder itself" in note


def test_a_class_folder_that_is_a_link_to_another_is_said(tmp_path: Path) -> None:
    fill(tmp_path, "tench/1.jpg")
    (tmp_path / "goldfish").symlink_to("tench")  # sorts before it
    assert labels_of(images(folder=tmp_path)) == {"tench/1": 0}
    (note,) = notes(folder=tmp_path)
    assert "1 links" in note and note.endswith("such as goldfish, which is tench")


def test_two_names_of_one_file_are_one_image(tmp_path: Path) -> None:
    fill(tmp_path, "tench/b.jpg")
    (tmp_path / "tench" / "a.jpg").symlink_to("b.jpg")
    (tmp_path / "tench" / "c.jpg").hardlink_to(tmp_path / "tench" / "b.jpg")
    (tmp_path / "tench" / "self.jpg").symlink_to("self.jpg")
    assert ids(images(folder=tmp_path)) == ["tench/b", "tench/self"]
    assert "2 links" in notes(folder=tmp_path)[0]
    (tmp_path / "labels.csv").write_text("file,label\ntench/a.jpg,0\ntench/b.jpg,1\n")
    problems = {ref.image_id: ref.problem for ref in images(folder=tmp_path, labels="labels.csv")}
    assert problems["tench/b"] == ""
    assert problems["tench/a"].endswith("but a link to tench/b.jpg")


def test_pictures_that_are_passed_over_are_counted_in_one_line(tmp_path: Path) -> None:
    unread = ["tench/5.jp2", "tench/6.JP2", "tench/bare", "tench/._1.jpg", ".hidden/1.png", "@eaDir/1.jpg/THUMB.jpg"]
    fill(tmp_path, "tench/1.jfif", "tench/2.apng", "tench/3.avif", *unread, "README", "notes.txt", "tench/.DS_Store")
    assert labels_of(images(folder=tmp_path)) == {"tench/1": 0, "tench/2": 0, "tench/3": 0}
    (note,) = notes(folder=tmp_path)
    expected = "may be pictures were passed over: 2 .jp2, 2 hidden, 1 in @eaDir, 1 without an extension"
    assert note.startswith("images.folder: 6 files in ") and note.endswith(expected)


def test_pictures_elsewhere_than_imagenets_are_counted(tmp_path: Path) -> None:
    fill(tmp_path, "n01440764/1.JPEG", "n01440764/more/2.JPEG", "tench/3.JPEG")
    assert ids(images(imagenet=tmp_path)) == ["1"]
    assert notes(imagenet=tmp_path)[0].endswith("were passed over: 2 in folders that no wnid names")
    assert notes(folder=fill(tmp_path / "plain", "tench/1.jpg")) == ()


def test_what_is_there_instead_is_said(tmp_path: Path) -> None:
    fill(
        tmp_path,
        *(f"set/val/{name}" for name in ("n01440764/1.JPEG", "n02056570/2.JPEG")),
        "all.tar.gz",
        "flat/v/1.JPEG",
    )
    refused("there are 2 below val/ in it: give .*/set/val; ", imagenet=tmp_path / "set")
    refused("the 2 sub-folders of .*/set/val are named by classes, so give .*/set/val", folder=tmp_path / "set")
    refused("there are 1 below v/ in it: give .*/flat/v; ", imagenet=tmp_path / "flat")
    refused("'.*all.tar.gz' is not a folder; unpack it", imagenet=tmp_path / "all.tar.gz")
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        archive.add(tmp_path / "set" / "val", "val")
    refused("there are 2 below val/ in it: repack what is in val/; ", imagenet=tmp_path / "set.tar")


@pytest.mark.parametrize("key", ["labels", "select", "folder"])
def test_pipes_and_devices_are_refused_and_never_waited_for(tmp_path: Path, key: str) -> None:
    fill(tmp_path, "0/a.jpg")
    os.mkfifo(tmp_path / "pipe")
    config: dict[str, Any] = {"folder": tmp_path, key: tmp_path / "pipe"}
    refused("is not a folder" if key == "folder" else "is a pipe, a socket or a device", **config)
    if key != "folder":
        refused("is a pipe, a socket or a device", **config | {key: "/dev/zero"})


def test_a_pipe_is_no_archive(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "val.tar")
    refused("is a pipe, a socket or a device", imagenet=tmp_path / "val.tar")


def test_home_in_every_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    fill(tmp_path, "photos/a.jpg", "list.txt", labels="file,label\na.jpg,1\n")
    (tmp_path / "list.txt").write_text("a.jpg\n")
    refs = images(folder="~/photos", labels="~/labels.csv", select="~/list.txt")
    assert refs == [ImageRef("a", f"{tmp_path}/photos/a.jpg", 1)]
    refused("there is no '~nobody-of-that-name/x.csv'", folder="~/photos", labels="~nobody-of-that-name/x.csv")


@pytest.mark.parametrize("name", ["a[1]b", "[x]", "what?", "st*r", "100%", "a#b", "two words"])
def test_any_folder_name(tmp_path: Path, name: str) -> None:
    fill(tmp_path / name, "tench/1.jpg")
    (ref,) = images(folder=tmp_path / name)
    assert read_bytes(ref.uri, 100) == b"bytes of tench/1.jpg"


def test_wrong_folders_are_refused(tmp_path: Path) -> None:
    refused("images.folder: '.*/absent' does not exist", folder=tmp_path / "absent")
    refused("is not a folder; give a folder", folder=fill(tmp_path / "f", "a.jpg") / "a.jpg")
    refused("does not exist; give a folder", folder=tmp_path / "absent.tar.gz")
    refused("no images in .*looked for .*.jpeg", folder=fill(tmp_path / "empty", "README.md"))
    refused("nothing labels the images", folder=tmp_path / "f")
    refused("sub-folder 'peguin' of .*did you mean", folder=fill(tmp_path / "w", "peguin/a.jpg"))
    refused("images.folder: 'nosuch://b': nosuch:// is not supported", folder="nosuch://b/")


def test_an_unreadable_sub_folder_is_refused_not_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, "0/a.jpg", "1/a.jpg")
    forbid_listing(monkeypatch, f"{tmp_path}/1")
    refused("cannot be read: .*Permission denied", folder=tmp_path)


# --- the official validation set

WNIDS = [class_wnid(index) for index in (145, 649, 0, 517)]
KIT_IDS = [3, 1, 4, 2]  # An order of the kit's own, unlike the wnids'.
TRUTH = [1, 3, 2, 4, 3]
VAL_NAMES = [f"ILSVRC2012_val_{n:08d}.JPEG" for n in range(1, 6)]
EXPECTED = dict(zip((name[:-5] for name in VAL_NAMES), (649, 145, 517, 0, 145), strict=True))


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    """The development kit in small: synsets with an inner node, as scipy and MATLAB write them."""
    data = tmp_path / "kit" / "ILSVRC2012_devkit_t12" / "data"
    data.mkdir(parents=True)
    fields = [(name, object) for name in ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children")]
    synsets = np.array(
        [(i, wnid, "a, b", "gloss", 0, []) for i, wnid in zip(KIT_IDS, WNIDS, strict=True)]
        + [(1001, "n00001740", "entity", "gloss", 2, [1, 2])],
        dtype=fields,
    )
    savemat(data / "meta.mat", {"synsets": synsets.reshape(-1, 1)})
    (data / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{n}\n" for n in TRUTH))
    packed = tmp_path / "kit" / "ILSVRC2012_devkit_t12.tar.gz"
    with tarfile.open(packed, "w:gz") as archive:
        archive.add(data.parent, "ILSVRC2012_devkit_t12")
    return packed


def pack(folder: Path, tar: Path) -> Path:
    with tarfile.open(tar, "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.add(file, file.name)
    return tar


def test_devkit_agrees_with_torchvision(tmp_path: Path, devkit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oracle, "check_integrity", lambda *_: True)
    oracle.parse_devkit_archive(devkit.parent)
    _, wnids = torch.load(devkit.parent / "meta.bin", weights_only=True)
    refs = images(imagenet=fill(tmp_path / "val", *VAL_NAMES), devkit=str(devkit))
    assert [class_wnid(ref.label) for ref in refs] == wnids
    assert labels_of(refs) == EXPECTED


def test_flat_tar_and_wnid_layouts_agree(tmp_path: Path, devkit: Path) -> None:
    flat = fill(devkit.parent / "val", *VAL_NAMES)
    tar = pack(flat, devkit.parent / "ILSVRC2012_img_val.tar")
    sorted_names = (f"{class_wnid(EXPECTED[name[:-5]])}/{name}" for name in VAL_NAMES)
    by_wnid = fill(tmp_path / "elsewhere", *sorted_names)
    unpacked_kit = devkit.parent / "ILSVRC2012_devkit_t12"
    assert labels_of(images(imagenet=flat)) == EXPECTED  # The kit is found one folder up.
    assert labels_of(images(imagenet=tar)) == EXPECTED  # And beside the archive.
    assert labels_of(images(imagenet=by_wnid)) == EXPECTED  # And is not needed.
    devkit.unlink()
    assert labels_of(images(imagenet=flat)) == EXPECTED
    assert labels_of(images(imagenet=flat, devkit=unpacked_kit)) == EXPECTED


def test_tar_slices_are_the_members_bytes(devkit: Path, tmp_path: Path) -> None:
    tar = pack(fill(tmp_path / "val", *VAL_NAMES), devkit.parent / "ILSVRC2012_img_val.tar")
    with tarfile.open(tar) as archive:
        for ref in images(imagenet=tar):
            member = archive.extractfile(f"{ref.image_id}.JPEG")
            assert member is not None
            assert ref.uri.startswith(f"{tar}#bytes=")
            assert read_bytes(ref.uri, 1000) == member.read() == f"bytes of {ref.image_id}.JPEG".encode()
    by_file_name = images(imagenet=tar, select=[VAL_NAMES[1]])
    assert [ref.image_id for ref in by_file_name] == [VAL_NAMES[1][:-5]]


def test_imagenet_with_a_labels_csv_that_covers_more(tmp_path: Path) -> None:
    rows = "".join(f"ILSVRC2012_val_{n:08d},{WNIDS[0]} 1 2 3 4\n" for n in range(1, 5))
    (tmp_path / "LOC_val_solution.csv").write_text(f"ImageId,PredictionString\n{rows}")
    *known, beyond = images(imagenet=fill(tmp_path, *VAL_NAMES[2:]), labels="LOC_val_solution.csv")
    assert labels_of(known) == {name[:-5]: 145 for name in VAL_NAMES[2:4]}
    assert "unlabeled" in beyond.problem


def test_one_stem_in_two_wnid_folders_does_not_mix_labels(tmp_path: Path) -> None:
    first, second = images(imagenet=fill(tmp_path, "n01440764/1.JPEG", "n02056570/1.JPEG"))
    assert (first.label, first.problem) == (0, "")
    assert second.label == 145 and "duplicate id" in second.problem


def test_labels_are_matched_by_path_first(tmp_path: Path) -> None:
    fill(tmp_path, "n01440764/1.JPEG", "n02056570/1.JPEG")
    for before in ("", "val/", "./ILSVRC/val/", "val\\"):
        rows = f"file,label\n{before}n01440764/1.JPEG,0\n{before}n02056570/1.JPEG,145\n"
        (tmp_path / "labels.csv").write_text(rows)
        first, second = images(imagenet=tmp_path, labels="labels.csv")
        assert (first.label, first.problem) == (0, "")
        assert second.label == 145 and "duplicate id" in second.problem


def test_caffes_list_is_0_based(tmp_path: Path) -> None:
    fill(tmp_path, *VAL_NAMES[:3])
    (tmp_path / "val.txt").write_text(
        "".join(f"{name} {label}\n" for name, label in zip(VAL_NAMES, (65, 970, 0), strict=False))
    )
    refs = images(imagenet=tmp_path, labels="val.txt")
    assert list(labels_of(refs).values()) == [65, 970, 0]
    assert labels_of(images(folder=tmp_path, labels="val.txt")) == labels_of(refs)
    assert notes(imagenet=tmp_path, labels="val.txt")[0].endswith(
        "has no header; its numbers are taken as caffe's, 0–999"
    )
    for wrong, said in ((66, "has 66; a list must"), (490, "has 490; .* where ILSVRC2012_val_00000001 has 65")):
        (tmp_path / "val.txt").write_text(f"{VAL_NAMES[0]} {wrong}\n")
        refused(f"line 1: {VAL_NAMES[0]} {said}", imagenet=tmp_path, labels="val.txt")
    (tmp_path / "val.txt").write_text(f"{VAL_NAMES[1]} 5\n{VAL_NAMES[2]} 1000\n")
    refused(f"line 2: {VAL_NAMES[2]} has 1000", imagenet=tmp_path, labels="val.txt")
    (tmp_path / "val.txt").write_text(f"{VAL_NAMES[1]} {'9' * 5000}\n")
    refused("line 1: .* is not a file and a class index", imagenet=tmp_path, labels="val.txt")
    (tmp_path / "val.txt").write_text(f"{VAL_NAMES[1]} 5\n\nnonsense\n")
    refused("line 3: 'nonsense' is not a file and a class index", imagenet=tmp_path, labels="val.txt")


def test_a_name_that_several_folders_have_labels_none(tmp_path: Path) -> None:
    fill(tmp_path, "n01440764/1.JPEG", "n02056570/1.JPEG", "n01440764/2.JPEG", "n02056570/3.JPEG")
    (tmp_path / "labels.csv").write_text("file,label\n1.JPEG,0\n2,0\nn01440764/3.JPEG,0\n")
    first, also, second, third = images(imagenet=tmp_path, labels="labels.csv")
    assert "several images are called 1" in first.problem and "several images are called 1" in also.problem
    assert (second.label, second.problem) == (0, "")
    assert "unlabeled" in third.problem, "the row is of another folder's image"


def test_rows_that_label_one_flat_image_must_agree(tmp_path: Path) -> None:
    fill(tmp_path, "1.JPEG", "2.JPEG")
    (tmp_path / "labels.csv").write_text("file,label\na/1.JPEG,0\nb/1.JPEG,5\nval/2.JPEG,7\n2.png,8\n")
    first, second = images(imagenet=tmp_path, labels="labels.csv")
    assert "more than once" in first.problem
    assert (second.label, second.problem) == (7, "")


def test_wnid_and_name_select_in_all_three_layouts(tmp_path: Path, devkit: Path) -> None:
    """RobustBench's list of 5,000 images is written so."""
    flat = fill(devkit.parent / "val", *VAL_NAMES)
    tar = pack(flat, devkit.parent / "ILSVRC2012_img_val.tar")
    wanted = [f"{class_wnid(EXPECTED[name[:-5]])}/{name}" for name in VAL_NAMES]
    by_wnid = fill(tmp_path / "elsewhere", *wanted)
    for place in (flat, tar, by_wnid):
        selected = images(imagenet=place, devkit=devkit, select=wanted[1:3])
        assert ids(selected) == [name[:-5] for name in VAL_NAMES[1:3]]
    for place, said in ((flat, "is of another class, n03743016"), (by_wnid, "no image|another class")):
        refused(said, imagenet=place, devkit=devkit, select=[f"n99999999/{VAL_NAMES[0]}"])


def test_wrong_imagenets_are_refused(tmp_path: Path, devkit: Path) -> None:
    flat = fill(tmp_path / "val", VAL_NAMES[0])
    refused("no ground truth; put ILSVRC2012_devkit_t12.tar.gz into .* or give images.devkit", imagenet=flat)
    refused("images.devkit: there is no 'x.tar.gz'", imagenet=flat, devkit="x.tar.gz")
    refused("no images in .* ILSVRC2012_img_val.tar", imagenet=fill(tmp_path / "deep", "a/b/c.JPEG"))
    refused("unknown class 'n99999999'", imagenet=fill(tmp_path / "w", "n99999999/a.JPEG"))
    refused("x.tar' cannot be read: .*No such file", imagenet=tmp_path / "x.tar")
    fill(tmp_path, "damaged.tar.gz", "no.tar")
    refused("images.devkit: .* is damaged", imagenet=flat, devkit=tmp_path / "damaged.tar.gz")
    refused("no complete, uncompressed tar", imagenet=tmp_path / "no.tar")
    tar = pack(fill(tmp_path / "some", *VAL_NAMES), tmp_path / "short.tar")
    tar.write_bytes(tar.read_bytes()[:3000])
    refused("no complete, uncompressed tar", imagenet=tar)
    with tarfile.open(devkit, "w:gz"):
        pass
    refused("images.devkit: .* lacks data/meta.mat", imagenet=flat, devkit=devkit)


# --- select, sample, limit


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """5 + 3 + 1 images of three classes."""
    names = [f"{wnid}/{n}.jpg" for wnid, count in (("0", 5), ("1", 3), ("2", 1)) for n in range(count)]
    return fill(tmp_path / "pets", *names)


def ids(refs: list[ImageRef]) -> list[str]:
    return [ref.image_id for ref in refs]


def test_order_and_limit(pets: Path) -> None:
    everything = images(folder=pets)
    assert ids(everything) == sorted(ids(everything)) and len(everything) == 9
    assert images(folder=pets, limit=4) == everything[:4]
    assert images(folder=pets, limit=1) == everything[:1]
    assert images(folder=pets, limit=400) == everything


def test_select_by_id_file_name_and_list(pets: Path, tmp_path: Path) -> None:
    wanted = ["0/1", "2/0"]
    assert ids(images(folder=pets, select=["2/0.jpg", "0/1", "0/1.jpg"])) == wanted
    (tmp_path / "list.txt").write_text("# two of them\n2/0\n\n 0/1.jpg \n")
    assert ids(images(folder=pets, select=tmp_path / "list.txt")) == wanted
    (pets / "list.txt").write_bytes(b"\xef\xbb\xbf4.jpg\r\n")  # as Windows' Notepad saves UTF-8
    assert ids(images(folder=pets, select="list.txt")) == ["0/4"]


def test_wrong_selections_are_refused(pets: Path) -> None:
    refused("no image '0/9'; did you mean '0/", folder=pets, select=["0/9"])
    refused("no image 'zebra'; give image ids or file names", folder=pets, select=["zebra"])
    refused("'1.jpg' is in 2 folders; give one of '0/1', '1/1'", folder=pets, select=["1.jpg"])
    refused("names no images", folder=pets, select=[])
    refused("images.select: there is no 'list.txt'", folder=pets, select="list.txt")


def test_a_sample_is_even_over_classes_seeded_and_nested(pets: Path) -> None:
    samples = [images(folder=pets, sample=n, seed=7) for n in range(1, 10)]
    for n, refs in enumerate(samples, start=1):
        assert refs == images(folder=pets, sample=n, seed=7) and len(refs) == n
        assert ids(refs) == sorted(ids(refs))
    counts = [sorted(Counter(ref.label for ref in refs).values()) for refs in samples]
    assert counts[:5] == [[1], [1, 1], [1, 1, 1], [1, 1, 2], [1, 2, 2]]
    assert counts[6:] == [[1, 3, 3], [1, 3, 4], [1, 3, 5]]
    assert all(set(small) < set(large) for small, large in pairwise(samples))
    assert len({tuple(ids(images(folder=pets, sample=3, seed=seed))) for seed in range(10)}) > 1


def test_a_sample_draws_only_usable_images(pets: Path) -> None:
    fill(pets, "stray.jpg")
    assert "stray" not in ids(images(folder=pets, sample=9))
    refused("images.sample: 10 images are asked for, 9 are usable", folder=pets, sample=10)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "exactly one of samples, folder, imagenet, webdataset, parquet; given: none"),
        ({"folder": "a", "imagenet": "b"}, "given: folder, imagenet"),
        ({"samples": "torch"}, "foolbox"),
        ({"samples": "foolbox", "labels": "x.csv"}, "labels"),
        ({"folder": "a", "devkit": "b"}, "devkit"),
        ({"folder": "a", "limit": 0}, "limit"),
        ({"folder": "a", "sample": -1}, "sample"),
        ({"folder": "a", "limit": True}, "limit"),
        ({"folder": "a", "label": "b"}, "label"),
        ({"folder": ""}, "folder"),
    ],
)
def test_impossible_configs_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ImagesConfig(**config)


# --- a filesystem without folders, as object stores are


class StoreFileSystem(LocalFileSystem):
    """An object store in a dictionary."""

    objects: ClassVar[dict[str, bytes]] = {}

    @classmethod
    def scheme(cls) -> str:
        return "teststore"

    def has_dirs(self) -> bool:
        return False

    def _list(self, dir_or_prefix: str) -> Iterator[FileMetadata]:
        return (FileMetadata(k, len(v)) for k, v in self.objects.items() if k.startswith(dir_or_prefix))

    def exists(self, path: str) -> bool:
        return path in self.objects

    def open(self, path: str, mime_type: str = "", compression_type: str = "") -> BinaryIO:
        if path not in self.objects:
            raise FileNotFoundError(errno.ENOENT, "there is none", path)
        return io.BytesIO(self.objects[path])


def test_remote_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    root = "teststore://bucket/a[1]*"
    names = {"labels.csv": b"file,label\nx/y/1.jpg,3\n2.jpg,tench\n", "x/y/1.jpg": b"one", "2.jpg": b"two"}
    objects = {f"{root}/{name}": data for name, data in names.items()}
    monkeypatch.setattr(StoreFileSystem, "objects", objects | {"teststore://bucket/a[1]*b/3.jpg": b"no"})
    refs = images(folder=f"{root}/", labels="labels.csv", select=["1.jpg", "2"])
    assert refs == [ImageRef("2", f"{root}/2.jpg", 0), ImageRef("x/y/1", f"{root}/x/y/1.jpg", 3)]
    assert read_bytes(refs[1].uri, 10) == b"one"
    assert read_bytes(f"{refs[1].uri}#bytes=1-2", 10) == b"ne"
    with pytest.raises(FileNotFoundError):
        read_bytes(f"{root}/absent", 10)
    refused("no images in teststore://bucket/none", folder="teststore://bucket/none", labels=f"{root}/labels.csv")


def test_oracle_classes() -> None:
    """The constants above mean what their comments say."""
    assert [resolve_class(wnid) for wnid in WNIDS] == [145, 649, 0, 517]


def test_a_labels_header_with_control_characters_is_refused_in_one_line(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg", labels='"one\ntwo\x1b[31m",' + "x" * 1000 + "\na.jpg,1\n")
    with pytest.raises(InputError, match=r"its first row names one two\\x1b\[31m, x+ …, accepted are file") as caught:
        images(folder=tmp_path, labels="labels.csv")
    assert str(caught.value).isprintable() and len(str(caught.value)) < 600
