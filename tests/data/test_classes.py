"""Classes: against torchvision's own list, and every way to name one."""

import pytest
from torchvision.models import ResNet50_Weights

from transforms.data.classes import class_name, class_wnid, resolve_class
from transforms.errors import InputError

AMBIGUOUS_NAMES = {"crane", "Cardigan", "cardigan", "partridge", "crayfish", "polecat", "tub", "gong", "harp"} | {
    "maillot",
    "missile",
}


def test_names_are_torchvisions() -> None:
    assert [class_name(index) for index in range(1000)] == ResNet50_Weights.DEFAULT.meta["categories"]


def test_wnids_are_unique_and_in_torch_order() -> None:
    wnids = [class_wnid(index) for index in range(1000)]
    assert len(set(wnids)) == 1000
    assert wnids == sorted(wnids)
    assert (wnids[0], wnids[145], wnids[649]) == ("n01440764", "n02056570", "n03743016")


def test_every_class_resolves_from_index_and_wnid() -> None:
    for index in range(1000):
        assert resolve_class(index) == resolve_class(str(index)) == resolve_class(class_wnid(index)) == index


def test_every_name_resolves_to_its_class_or_is_refused_naming_it() -> None:
    refused = set()
    for index in range(1000):
        try:
            assert resolve_class(class_name(index)) == index
        except InputError as error:
            assert f"({index}, {class_wnid(index)})" in str(error)
            refused.add(class_name(index))
    assert refused == AMBIGUOUS_NAMES


@pytest.mark.parametrize(
    "text", ["king penguin", "King_Penguin", " king-penguin ", "kingpenguin", "Aptenodytes patagonica", "N02056570"]
)
def test_spelling_does_not_matter(text: str) -> None:
    assert resolve_class(text) == 145


def test_unambiguous_neighbours_of_ambiguous_names() -> None:
    assert (resolve_class("crane bird"), resolve_class("maillot tank suit")) == (134, 639)


def test_ambiguous_lists_the_candidates_in_one_line() -> None:
    with pytest.raises(InputError) as caught:
        resolve_class("crane")
    assert "'crane bird' (134, n02012849), 'crane' (517, n03126707)" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("king pengin", "'king penguin' (145, n02056570)"),
        ("zzzzzz", "a wnid"),
        ("", "a wnid"),
        ("1000", "0–999"),
        ("-1", "0–999"),
        (-1, "0–999"),
        ("9" * 5000, "0–999"),
        ("n99999999", "n"),
    ],
)
def test_unknown_is_refused_in_one_short_line(text: str | int, hint: str) -> None:
    with pytest.raises(InputError, match="unknown class") as caught:
        resolve_class(text)
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize("index", [-1, 1000])
def test_the_label_of_an_unlabeled_image_is_no_class(index: int) -> None:
    with pytest.raises(IndexError):
        class_name(index)
    with pytest.raises(IndexError):
        class_wnid(index)
