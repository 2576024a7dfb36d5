"""Estimates, by stopwatches that are set by hand."""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.config.experiment import load_experiment
from pipeline.run import estimate as module
from pipeline.run.estimate import Estimate, estimate
from pipeline.run.prepare import Prepared, prepare
from tests.support.attacks import as_is
from tests.support.runs import Finished, Json, complaint, invoke, small, tiny, written
from transforms.errors import InputError

pytestmark = pytest.mark.system


def _prepared(folder: Path, experiment: Json) -> Prepared:
    return prepare(load_experiment(str(written(folder, experiment))), str(folder / "run"))


def _takes(seconds: float, shown: int | None = None) -> Callable[..., tuple[float, int | None]]:
    """A stopwatch for which all work takes so long; attacks are stopped after so many pictures."""

    def taken(work: Callable[[], object], models: object = ()) -> tuple[float, int | None]:
        work()
        return seconds, shown if models else None

    return taken


def test_each_step_counts_as_often_as_it_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three images in chunks of two are two micro-batches, of which all work takes one second."""
    monkeypatch.setattr(module, "_taken", _takes(1))
    # load 1; attacks 2; (2 attacks, clean) × (2 defences): read 1 + defend 1, and for each model look 1 + write 1
    one = estimate(_prepared(tmp_path / "one", tiny()), "cpu")
    assert one == Estimate(2 * (1 + 2 + 3 * 2 * (2 + 2)), 2 * (1 + 2 + 3 * 2 * (2 + 2)), chunks=2)
    two = estimate(_prepared(tmp_path / "two", tiny(targets=["lite0", "lite1"])), "cpu")
    assert two.low == pytest.approx(2 * (1 + 2 + 3 * 2 * (2 + 2 * 2)))


def test_a_random_defense_is_drawn_and_looked_at_repeatedly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_taken", _takes(1))
    noise = {"noise": {"sigma": "8/255", "repeats": 5}}
    found = estimate(_prepared(tmp_path, tiny(attacks={}, defenses=noise)), "cpu")
    # undefended: read, defend by nothing, look, write; behind noise: read, 5 × (defend, look), write
    assert found.low == pytest.approx(2 * (1 + 4 + (1 + 5 * 2 + 1)))


def test_passes_that_an_attack_had_left_are_reckoned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attacks = {"mi": {"recipe": "mi-fgsm", "surrogates": ["lite0"], "eps": "4/255", "steps": 6}}
    prepared = _prepared(tmp_path, tiny(attacks=attacks, defenses={}))
    monkeypatch.setattr(module, "_taken", _takes(1))
    whole = estimate(prepared, "cpu")
    # 2 images × (6 passes + 2 to judge) = 16 pictures; it was stopped after 4 of them, and there are 2 batches
    monkeypatch.setattr(module, "_taken", _takes(1, shown=4))
    assert estimate(prepared, "cpu").low - whole.low == pytest.approx(2 * (16 / 4 - 1))


def test_the_range_spans_both_trials_of_each_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = _prepared(tmp_path, tiny(attacks={}, defenses={}))
    seconds = iter([1, 10, 100, 1000, 10_000, 2, 5, 100, 1000, 10_000])  # load, look, write, read, defend of two trials

    def taken(work: Callable[[], object], models: object = ()) -> tuple[float, None]:
        work()
        return next(seconds), None

    monkeypatch.setattr(module, "_taken", taken)
    found = estimate(prepared, "cpu")
    assert (found.high - found.low) == pytest.approx(2 * (1 + 5))


def test_work_is_stopped_at_the_first_picture_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(100))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(ticks)))
    monkeypatch.setattr(module, "_PATIENCE", 3.5)
    model = as_is(nn.Identity(), 2)

    def work() -> None:
        for _ in range(10):
            with suppress(Exception):  # as libraries do
                model(torch.zeros(4, 3, 2, 2))

    # begun at 0; pictures at 1, 2 and 3; stopped at 4, and read at 5
    assert module._taken(work, [model]) == (5, 3 * 4)
    model(torch.zeros(4, 3, 2, 2))
    assert next(ticks) == 6, "the stopwatch still runs"
    assert module._taken(lambda: None, [model]) == (1, None)


def test_work_that_is_late_to_begin_shows_one_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a slow store has to be read first: what the rest takes is reckoned from at least one."""
    ticks = iter([0.0, 9.0, 10.0, 11.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    monkeypatch.setattr(module, "_PATIENCE", 3.5)
    model = as_is(nn.Identity(), 2)
    pictures = torch.zeros(4, 3, 2, 2)
    assert module._taken(lambda: [model(pictures), model(pictures)], [model]) == (11, 4)


def test_more_work_takes_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real networks and a real clock."""
    monkeypatch.setattr(module, "_PATIENCE", 0.5)
    few = estimate(_prepared(tmp_path / "few", tiny(attacks={})), "cpu")
    attack = {"recipe": "mi-fgsm", "surrogates": ["lite0"], "eps": "4/255", "steps": 300}
    many = estimate(_prepared(tmp_path / "many", tiny(attacks={"mi": attack})), "cpu")
    assert 0 < few.low <= few.high
    assert many.low > few.high


def test_images_that_cannot_be_read_are_said(tmp_path: Path) -> None:
    folder = tmp_path / "images" / "n01440764"
    folder.mkdir(parents=True)
    (folder / "broken.jpg").write_bytes(b"no picture")
    prepared = _prepared(tmp_path, tiny(images={"folder": str(tmp_path / "images")}))
    with pytest.raises(
        InputError, match=r"\Aimages: there is nothing to time, .*broken.jpg and others cannot be read\Z"
    ):
        estimate(prepared, "cpu")


@pytest.mark.parametrize(
    ("seconds", "chunks", "workers", "price", "said"),
    [
        ((30, 45), 3, 1, None, "to do: about 30.0 to 45.0 seconds with 1 worker like this one"),
        ((600, 1200), 8, 4, None, "to do: about 2.5 to 5.0 minutes with 4 workers like this one"),
        # The busier worker has three chunks of five; of more workers than chunks, some have none.
        ((3000, 3600), 5, 2, None, "to do: about 30.0 to 36.0 minutes with 2 workers like this one"),
        ((3600, 7200), 2, 4, 1.0, "to do: about 30.0 to 60.0 minutes with 4 workers like this one, for 2.00 to 4.00"),
        (
            (36e5, 72e5),
            1000,
            2,
            3.0,
            "to do: about 500.0 to 1,000.0 hours with 2 workers like this one, for 3,000.00 to 6,000.00",
        ),
    ],
)
def test_an_estimate_in_words(
    seconds: tuple[float, float], chunks: int, workers: int, price: float | None, said: str
) -> None:
    assert Estimate(*seconds, chunks).in_words(workers, price) == said


def test_plan_says_it_and_writes_nothing(tmp_path: Path) -> None:
    path = written(tmp_path, tiny(attacks={}))
    planned = invoke("plan", path, "--output", tmp_path / "run", "--workers", 2, "--price", 1.5)
    assert planned.exit_code == 0, planned.output
    assert "with 2 workers like this one, for 0." in planned.stdout.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_nothing_to_do_takes_no_time(tiny_run: Finished) -> None:
    planned = invoke("plan", tiny_run.experiment, "--output", tiny_run.output, "--workers", 1)
    assert planned.exit_code == 0
    assert "worker" not in planned.stdout


def test_a_price_without_workers_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, small())
    said = complaint(invoke("plan", path, "--output", tmp_path / "run", "--price", 3))
    assert said == "megalith: --price: give --workers too, how many there are going to be"
