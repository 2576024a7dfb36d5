"""The sentence that mends a mistake names what was most likely meant."""

import pytest

from transforms.errors import unknown

_RECIPES = ("pgd", "pgn", "fgsm", "mi-fgsm", "di-fgsm")


@pytest.mark.parametrize(
    ("written", "meant"),
    [("pdg", "pgd"), ("png", "pgn"), ("PGD", "pgd"), ("fgms", "fgsm"), ("mifgsm", "mi-fgsm"), ("d-ifgsm", "di-fgsm")],
)
def test_letters_that_have_changed_places_come_first(written: str, meant: str) -> None:
    assert str(unknown("recipe", written, _RECIPES)) == f"unknown recipe {written!r}; did you mean {meant!r}?"


def test_what_resembles_nothing_is_told_what_there_is() -> None:
    assert str(unknown("view", "zzz", ["center", "saccades"])) == "unknown view 'zzz'; known: center, saccades"
    assert str(unknown("view", "zzz", [])) == "unknown view 'zzz'; known: none"
