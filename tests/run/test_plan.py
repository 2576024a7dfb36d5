"""The plan as a pure function of an experiment and the paths that are there."""

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.config.experiment import Experiment, load_experiment
from pipeline.results.record import RunRecord
from pipeline.run.lock import lock
from pipeline.run.plan import Tasks, Wave, make_plan, make_waves
from pipeline.run.prepare import _other_last_bits
from tests.support.runs import EMPTY_RUN, tiny, written
from transforms.data.chunks import Chunk, ImageRef, make_chunks
from transforms.errors import InputError
from transforms.storage.store import Store

CHUNKS = make_chunks([ImageRef(f"image-{number}", "nowhere", number) for number in range(3)], size=2)


def _experiment(folder: Path, **changes: object) -> Experiment:
    return load_experiment(str(written(folder, tiny(**changes))))


def _paths(experiment: Experiment) -> set[str]:
    return {part.path for task in Tasks.every(experiment, CHUNKS) for part in task.parts}


def test_everything_is_missing_from_nothing_and_nothing_from_everything(tmp_path: Path) -> None:
    experiment = _experiment(tmp_path)
    nothing = make_plan(experiment, CHUNKS, set())
    # 2 chunks; 2 attacks; (1 + 2 attacks) × (1 + 1 defence) × 1 model × 1 view
    assert nothing.total == {"load": 2, "attack": 4, "predict": 12}
    assert {kind: nothing.cost[kind] for kind in nothing.total} == nothing.total
    # 3 images: 1 + 2 gradients each, and 6 predictions each
    assert (nothing.cost["backwards"], nothing.cost["forwards"]) == (9, 9 + 18)
    everything = make_plan(experiment, CHUNKS, _paths(experiment))
    assert not everything.missing
    assert everything.total == nothing.total
    assert make_waves(experiment, everything.missing, None) == []


def test_every_lost_part_makes_its_unit_missing(tmp_path: Path) -> None:
    experiment = _experiment(tmp_path)
    for lost in _paths(experiment):
        (task,) = make_plan(experiment, CHUNKS, _paths(experiment) - {lost}).missing
        assert lost in {part.path for part in task.parts}


def test_work_names_only_the_chunks_and_attacks_with_something_missing(tmp_path: Path) -> None:
    experiment = _experiment(tmp_path)
    lost = "predictions/attack=mi/model=lite0/view=center/defense=none/chunk-00001.parquet"
    (wave,) = make_waves(experiment, make_plan(experiment, CHUNKS, _paths(experiment) - {lost}).missing, None)
    (work,) = wave.work(CHUNKS)
    assert (work.chunk, work.attacks) == (CHUNKS[1], frozenset({"mi"}))


def test_canvases_that_are_not_kept_are_attacked_again_only_for_something_new_to_look_at(tmp_path: Path) -> None:
    experiment = _experiment(tmp_path, keep_canvases=False)
    kept = {path for path in _paths(experiment) if not path.startswith("canvases/") or "attack=none" in path}
    assert not make_plan(experiment, CHUNKS, kept).missing
    lost = "predictions/attack=mi/model=lite0/view=center/defense=none/chunk-00001.parquet"
    again = make_plan(experiment, CHUNKS, kept - {lost})
    assert [(task.kind, task.chunk, task.attack) for task in again.missing] == [
        ("attack", 1, "mi"),
        ("predict", 1, "mi"),
    ]
    still_there = kept | {"canvases/attack=mi/chunk-00001.parquet"}  # as after a kill, or from another experiment
    only = make_plan(experiment, CHUNKS, still_there - {lost})
    assert [(task.kind, task.chunk, task.attack) for task in only.missing] == [("predict", 1, "mi")]


def _waves(folder: Path, models_in_memory: int | None, lost: set[str] | None = None) -> list[Wave]:
    """Of three models that attack in two pairs and alone, and are all targets."""
    lite = {name: f"packaged/efficientnet-{name}" for name in ("lite0", "lite1", "lite2")}
    pairs = {"a": ["lite0"], "b": ["lite1", "lite2"], "c": ["lite0", "lite1"], "d": ["lite2", "lite1"]}
    attacks = {name: {"recipe": "fgsm", "surrogates": models, "eps": "4/255"} for name, models in pairs.items()}
    experiment = _experiment(folder, models=lite, attacks=attacks, targets=list(lite))
    present = set() if lost is None else _paths(experiment) - lost
    return make_waves(experiment, make_plan(experiment, CHUNKS, present).missing, models_in_memory)


@pytest.mark.parametrize("models_in_memory", [None, 3, 4])
def test_models_that_fit_are_one_wave(models_in_memory: int | None, tmp_path: Path) -> None:
    (wave,) = _waves(tmp_path, models_in_memory)
    assert set(wave.models) == set(wave.targets) == {"lite0", "lite1", "lite2"}
    assert {task.kind for task in wave.tasks} == {"load", "attack", "predict"}


def test_waves_hold_no_more_models_than_they_may_and_leave_nothing_out(tmp_path: Path) -> None:
    waves = _waves(tmp_path, 2)
    assert [set(wave.models) for wave in waves] == [
        *({"lite0", "lite1"}, {"lite1", "lite2"}),  # a and c, b and d
        *({"lite0", "lite1"}, {"lite2"}),
    ]
    assert [bool(wave.targets) for wave in waves] == [False, False, True, True]
    (everything,) = _waves(tmp_path, None)
    assert {task for wave in waves for task in wave.tasks} == set(everything.tasks)
    assert [{task.attack for task in wave.tasks if task.kind == "attack"} for wave in waves[:2]] == [
        *({"a", "c"}, {"b", "d"}),
    ]


def test_a_lost_image_is_loaded_even_if_no_model_is_needed(tmp_path: Path) -> None:
    (wave,) = _waves(tmp_path, 2, lost={"images/chunk-00001.parquet"})
    assert [work.chunk.index for work in wave.work(CHUNKS)] == [1]


def test_an_attack_of_too_many_models_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\A--models-in-memory: attack b needs its 2 models at once, not 1\Z"):
        _waves(tmp_path, 1)


def test_images_with_a_problem_cost_nothing(tmp_path: Path) -> None:
    chunk = Chunk(0, (ImageRef("good", "nowhere", 1), ImageRef("bad", "nowhere", 1, "no file")))
    predictions = make_plan(_experiment(tmp_path), [chunk], set()).missing.where("kind", ["predict"])
    assert {task.forwards for task in predictions} == {1}


def test_a_second_run_in_one_directory_is_refused(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "run"))
    with lock(store), pytest.raises(InputError, match="another run is at work"), lock(store):
        pass
    with lock(store):
        pass


def test_other_versions_and_another_micro_batch_are_said() -> None:
    before = RunRecord.model_validate({**EMPTY_RUN, "versions": {"torch": "2.14.0", "numpy": "2.4"}})
    assert list(_other_last_bits(before, before)) == []
    (warning,) = _other_last_bits(before, before.replace(versions={"torch": "2.15.0", "numpy": "2.4"}))
    assert "torch 2.14.0, now 2.15.0" in warning
    assert "numpy" not in warning
    eight, four = (before.replace(definitions=before.definitions.replace(micro_batch=size)) for size in (8, 4))
    (warning,) = _other_last_bits(eight, four)
    assert "micro_batch 8, now 4" in warning
    assert list(_other_last_bits(before, four)) == []  # version 0.1.0 recorded none


def _large(folder: Path, models: int, refs: int) -> tuple[Experiment, tuple[Chunk, ...]]:
    experiment = _experiment(
        folder,
        chunk_size=16,
        models={f"m{number}": "packaged/efficientnet-lite0" for number in range(models)},
        attacks={name: {"recipe": name, "surrogates": ["m0"], "eps": "4/255"} for name in ("fgsm", "bim", "pgd")},
        targets=[f"m{number}" for number in range(models)],
        defenses={"lowpass": {"cutoff": [0.9, 0.8, 0.7, 0.6]}},
    )
    return experiment, make_chunks([ImageRef(f"{number:05d}", "nowhere", 0) for number in range(refs)], 16)


def test_planning_takes_a_few_bytes_for_each_unit(tmp_path: Path) -> None:
    experiment, chunks = _large(tmp_path, models=20, refs=16_000)
    make_plan(experiment, CHUNKS, set())  # whatever is made once
    tracemalloc.start()
    try:
        plan = make_plan(experiment, chunks, set())
        waves = make_waves(experiment, plan.missing, 1)
        assert plan.cost["predict"] == sum(len(wave.tasks) for wave in waves[1:]) == 1000 * 4 * 5 * 20
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 32 * len(plan.missing), f"{peak / len(plan.missing):.0f} bytes for each task"


def test_a_plan_makes_no_unit_until_it_is_asked_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment, chunks = _large(tmp_path, models=2, refs=160)
    files = {part.path for task in Tasks.every(experiment, chunks) for part in task.parts}
    monkeypatch.setattr("pipeline.run.plan.Task", None)
    nothing, everything = make_plan(experiment, chunks, set()), make_plan(experiment, chunks, files)
    assert len(nothing.missing) == sum(nothing.total.values()) == 10 * (1 + 3 + 4 * 5 * 2)
    assert nothing.attack_passes == {"fgsm": (160, 160), "bim": (1600, 1600), "pgd": (1600, 1600)}
    assert not everything.missing
    with pytest.raises(TypeError):
        next(iter(nothing.missing))


def test_files_are_gone_through_once(tmp_path: Path) -> None:
    class Files(list[str]):
        times = 0

        def __iter__(self) -> Iterator[str]:
            self.times += 1
            return super().__iter__()

        def __contains__(self, _: object) -> bool:
            raise AssertionError("looked for in a list")

    experiment, chunks = _large(tmp_path, models=2, refs=160)
    files = Files(sorted(_paths(experiment)))
    make_plan(experiment, chunks, files)
    assert files.times == 1


def test_gathered_parts_are_there(tmp_path: Path) -> None:
    """Of canvases by 16 chunks, of all else by 256."""
    experiment, chunks = _large(tmp_path, models=1, refs=16 * 300)
    parts = [part for task in Tasks.every(experiment, chunks) for part in task.parts]
    files = {part.compacted for part in parts}
    assert not make_plan(experiment, chunks, files).missing
    for table, missing in (("attacks", range(256, 300)), ("canvases", range(16, 32))):
        plan = make_plan(experiment, chunks, files - {f"{table}/attack=bim/group-00001.parquet"})
        assert [(task.attack, task.chunk) for task in plan.missing] == [("bim", chunk) for chunk in missing]


def test_files_that_are_no_parts_are_nothing(tmp_path: Path) -> None:
    experiment, chunks = _large(tmp_path, models=1, refs=16)
    names = ("chunk-0.parquet", "chunk-99999.parquet", "group-00001.parquet", "chunk-00000.parquet.old", "readme.md")
    files = {f"{folder}/{name}" for folder in ("images", "canvases/attack=none", "") for name in names}
    files |= {"mine/group-00000.parquet", "group-00000.parquet"}
    assert len(make_plan(experiment, chunks, files).missing) == sum(make_plan(experiment, chunks, ()).total.values())
