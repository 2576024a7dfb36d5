"""Whatever kills its process is isolated: the image is named, and the rest is done."""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from transforms.storage.crash_guard import FOLDER, MOST, death_rows, guarded
from transforms.storage.store import Store

IMAGES = ["a", "b", "c"]


class DeathError(BaseException):
    """Stands for the end of a process: nothing of this module runs any more, and what it had written stays."""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Whose process dies at `DeathError`: from then on it deletes nothing."""
    delete = Store.delete

    def delete_unless_dead(self: Store, paths: Sequence[str]) -> None:
        if not dead:
            delete(self, paths)

    dead: list[bool] = []
    monkeypatch.setattr(Store, "delete", delete_unless_dead)
    monkeypatch.setattr(Store, "dead", dead, raising=False)
    return Store(str(tmp_path))


def process(
    store: Store, work: Callable[[Sequence[int]], list[str]], unit: str = "u"
) -> tuple[list[int], object] | None:
    """What a process finds that begins now; None if it dies."""
    dead: list[bool] = store.dead  # type: ignore[attr-defined]
    dead.clear()
    try:
        return guarded(store, unit, IMAGES, work)
    except DeathError:
        return None


def deadly(store: Store, *fatal: str, together: int = len(IMAGES) + 1) -> Callable[[Sequence[int]], list[str]]:
    """Work that kills where it meets one of these images, or so many at once."""

    def work(numbers: Sequence[int]) -> list[str]:
        names = [IMAGES[number] for number in numbers]
        if set(names) & set(fatal) or len(names) >= together:
            store.dead.append(True)  # type: ignore[attr-defined]
            raise DeathError
        return names

    return work


def processes(store: Store, work: Callable[[Sequence[int]], list[str]]) -> tuple[int, object]:
    """Starts processes until one lives; returns how many died, and what the last one found."""
    for died in range(20):
        found = process(store, work)
        if found is not None:
            return died, found
    raise AssertionError("it never ends")


def records(store: Store) -> int:
    return len(store.paths(FOLDER))


def test_where_nothing_dies_nothing_stays(store: Store) -> None:
    assert process(store, deadly(store)) == ([0, 1, 2], IMAGES)
    assert records(store) == 0


def test_the_record_is_there_before_the_work(store: Store) -> None:
    def work(numbers: Sequence[int]) -> list[str]:
        seen.append(records(store))
        return []

    seen: list[int] = []
    process(store, work)
    assert seen == [1]


def test_an_error_is_not_a_death(store: Store) -> None:
    def fails(numbers: Sequence[int]) -> list[str]:
        raise OSError("the disk is full")

    for _ in range(2 * MOST):
        with pytest.raises(OSError, match="full"):
            process(store, fails)
    assert records(store) == 0
    assert process(store, deadly(store)) == ([0, 1, 2], IMAGES)


@pytest.mark.parametrize("number", range(len(IMAGES)))
def test_an_image_that_kills_is_left_out_after_three_deaths(number: int, store: Store) -> None:
    rest = [each for each in range(len(IMAGES)) if each != number]
    died, found = processes(store, deadly(store, IMAGES[number]))
    assert (died, found) == (MOST, (rest, [IMAGES[each] for each in rest]))


def test_each_image_that_kills_costs_one_more_death(store: Store) -> None:
    died, found = processes(store, deadly(store, "a", "c"))
    assert (died, found) == (MOST + 1, ([1], ["b"]))


def test_all_of_them_may_kill(store: Store) -> None:
    died, found = processes(store, deadly(store, *IMAGES))
    assert (died, found) == (MOST - 1 + len(IMAGES), ([], None))


def test_what_kills_only_together_ends_too(store: Store) -> None:
    """Each alone is well, all at once are too much for the machine."""
    died, found = processes(store, deadly(store, together=3))
    assert found == ([], None)
    assert died == MOST + 1


def test_two_deaths_by_others_hands_leave_nobody_out(store: Store) -> None:
    """As where a machine was switched off twice in the middle of the same unit."""
    for _ in range(MOST - 1):
        assert process(store, deadly(store, *IMAGES)) is None
    assert process(store, deadly(store)) == ([0, 1, 2], IMAGES)


def test_other_units_are_not_blamed(store: Store) -> None:
    for _ in range(2 * MOST):
        process(store, deadly(store, "a"), "u")
    assert process(store, deadly(store), "v") == ([0, 1, 2], IMAGES)


def test_what_a_process_died_of_is_tried_alone(store: Store) -> None:
    """Else a neighbour that is at work at that moment would be blamed as well."""
    assert process(store, deadly(store, "a"), "suspect") is None
    store.dead.clear()  # type: ignore[attr-defined]
    inside: list[str] = []
    together: list[tuple[str, ...]] = []

    def work(name: str) -> Callable[[Sequence[int]], None]:
        def body(_: Sequence[int]) -> None:
            inside.append(name)
            time.sleep(0.05)
            together.append(tuple(sorted(inside)))
            inside.remove(name)

        return body

    names = ["x", "y", "suspect", "z"]
    threads = [threading.Thread(target=guarded, args=(store, name, IMAGES, work(name))) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ("suspect",) in together
    assert not [names for names in together if "suspect" in names and len(names) > 1]
    assert any(len(names) > 1 for names in together), "the others need not wait for each other"


def test_rows_of_failures_say_so() -> None:
    (row,) = death_rows(IMAGES, [0, 2])
    assert (row["image_id"], row["attempt"]) == ("b", MOST)
    assert "processes ended" in row["message"] and "\n" not in row["message"]
