"""A run that is killed goes on, a finished one grows by what is new, and nothing that is finished is made again."""

import atexit
import io
import json
import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console
from torch import Tensor

import pipeline.cli.process
import pipeline.run.execute
from pipeline.config.experiment import load_experiment
from pipeline.results.render import print_summary
from pipeline.results.tables import open_run
from pipeline.run.execute import execute
from pipeline.run.prepare import prepare
from pipeline.run.runners import runner_options
from tests.support.preforked import command, start, wait_until
from tests.support.runs import (
    Finished,
    contents,
    count_by_table,
    everything,
    forbid_listing,
    invoke,
    left,
    refused,
    rows,
    run,
    sample_files,
    stamps,
    tiny,
    written,
)
from transforms.errors import InputError
from transforms.models.classifier import Classifier
from transforms.models.sources.registry import model_source
from transforms.models.sources.source import ModelSource
from transforms.rows.failures import failure_row
from transforms.rows.parts import Part
from transforms.rows.tables import TABLES, rows_table
from transforms.storage.store import Store

pytestmark = pytest.mark.system


def unpublished(output: Path) -> list[str]:
    """What a reader of the tables does not see; there may be a file against a second run at the same time."""
    published_ = {"run.json", "manifest.json", ".lock", *(Path(path).name for path in stamps(output))}
    return [path.name for path in output.rglob("*") if path.is_file() and path.name not in published_]


MI = tiny()["attacks"]["mi"]
PGD = tiny()["attacks"]["pgd"]
MODELS = tiny()["models"]
OTHER_WEIGHTS = str(model_source(MODELS["lite1"]).weights)


# --- killed


def published(output: Path, pattern: str, count: int = 1) -> Callable[[], bool]:
    return lambda: len(list(output.glob(pattern))) >= count


def test_killed_again_and_again_it_goes_on(tiny_run: Finished, tmp_path: Path) -> None:
    output = tmp_path / "run"
    total = len(stamps(tiny_run.output))
    moments = [
        published(output, "run.json"),
        published(output, "canvases/attack=*/*.parquet"),
        published(output, "predictions/*/*/*/*/*.parquet"),
        published(output, "**/*.parquet", total - 2),
    ]
    before = stamps(output)
    for moment in moments:
        process = start(tmp_path / "log", "run", tiny_run.experiment, "--output", output)
        wait_until(moment, process)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        after = stamps(output)
        assert before == {path: after.get(path) for path in before}, "a finished part was rewritten"
        before = after
    assert total - 2 <= len(before) < total
    finished = command("run", tiny_run.experiment, "--output", output)
    assert finished.returncode == 0, finished.stderr
    after = stamps(output)
    assert before == {path: after[path] for path in before}, "a finished part was rewritten"
    assert contents(output) == contents(tiny_run.output)
    assert unpublished(output) == []
    said, expected = (json.loads((each / "run.json").read_text()) for each in (output, tiny_run.output))
    assert {**said, "costs": 0} == {**expected, "costs": 0}


# Dies like a machine that loses power: everything is written, but the last file has not got its name yet.
DIES_BEFORE_RENAMING = """
import os, signal, sys
from pipeline.main import main

rename = os.replace
doomed = sys.argv.pop()

def dies(source, destination):
    if os.fspath(destination).endswith(doomed):
        os.kill(os.getpid(), signal.SIGKILL)
    rename(source, destination)

os.replace = dies
main()
"""


@pytest.mark.parametrize(
    "doomed",
    [
        pytest.param("run.json", id="before-anything-is-published"),
        pytest.param("canvases/attack=none/chunk-00000.parquet", id="between-images-and-their-canvases"),
        pytest.param("attacks/attack=pgd/chunk-00000.parquet", id="between-canvases-and-their-attack-rows"),
    ],
)
def test_killed_in_the_middle_of_a_unit(doomed: str, tiny_run: Finished, tmp_path: Path) -> None:
    output = tmp_path / "run"
    arguments = ["run", tiny_run.experiment, "--output", output, "--direct_num_workers=1"]
    process = start(tmp_path / "log", *arguments, f"/{doomed}", program=DIES_BEFORE_RENAMING)
    assert process.wait() == -signal.SIGKILL, (tmp_path / "log" / "stderr").read_text()
    before = stamps(output)
    assert not (output / doomed).exists()
    assert len(unpublished(output)) == 1
    run(tiny_run.experiment, output)
    assert contents(output) == contents(tiny_run.output)
    assert unpublished(output) == []
    after = stamps(output)
    rewritten = [path for path in before if after[path] != before[path]]
    assert rewritten == []


def test_interrupted_by_the_user_it_says_so_and_goes_on(tiny_run: Finished, tmp_path: Path) -> None:
    output = tmp_path / "run"
    process = start(tmp_path / "log", "run", tiny_run.experiment, "--output", output)
    wait_until(published(output, "predictions/*/*/*/*/*.parquet"), process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the command
    assert process.wait(timeout=60) == 130
    stderr = (tmp_path / "log" / "stderr").read_text()
    assert "Traceback" not in stderr
    # The progress bar's line, which it rewrites, comes first.
    (said,) = [line for line in stderr.splitlines() if "interrupted" in line]
    assert stderr.rstrip().endswith(said)
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    before = stamps(output)
    assert 0 < len(before) < len(stamps(tiny_run.output))
    run(tiny_run.experiment, output)
    after = stamps(output)
    assert before == {path: after[path] for path in before}
    assert contents(output) == contents(tiny_run.output)
    assert unpublished(output) == []


# --- finished, and more is wanted


def grown(tiny_run: Finished, folder: Path, **changes: Any) -> Counter[str]:
    """Runs a changed experiment in a copy of the finished run; returns how many new parts there are of each table.

    No part of the finished run may have been touched.
    """
    output = tiny_run.copy(folder / "run")
    before = stamps(output)
    run(written(folder, tiny(**changes)), output)
    after = stamps(output)
    assert before == {path: after[path] for path in before}
    return count_by_table(after.keys() - before.keys())


def test_the_finished_run_is_complete(tiny_run: Finished) -> None:
    chunks, attacks, defenses = 2, 2, 1
    assert count_by_table(stamps(tiny_run.output)) == {
        "images": chunks,
        "canvases": chunks * (1 + attacks),
        "attacks": chunks * attacks,
        "predictions": chunks * (1 + attacks) * (1 + defenses),
    }


def test_one_more_target_attacks_nothing_again(tiny_run: Finished, tmp_path: Path) -> None:
    new = grown(tiny_run, tmp_path, targets=["lite0", "lite1"])
    assert new == {"predictions": 2 * 3 * 2}
    assert len(list((tmp_path / "run" / "predictions").glob("*/model=lite1/*/*/*.parquet"))) == 2 * 3 * 2


def test_one_more_defense_attacks_nothing_again(tiny_run: Finished, tmp_path: Path) -> None:
    defenses = {"jpeg": {"quality": [75]}, "lowpass": {"cutoff": [0.6]}}
    assert grown(tiny_run, tmp_path, defenses=defenses) == {"predictions": 2 * 3}


def test_one_more_attack_leaves_the_others(tiny_run: Finished, tmp_path: Path) -> None:
    attacks = {"fgsm": {"recipe": "fgsm", "surrogates": ["lite0"], "eps": "2/255"}, **tiny()["attacks"]}
    new = grown(tiny_run, tmp_path, attacks=attacks)
    assert new == {"canvases": 2, "attacks": 2, "predictions": 2 * 2}


def test_a_default_that_is_written_out_changes_nothing(tiny_run: Finished, tmp_path: Path) -> None:
    """Nor does another spelling of the same number or class."""
    attacks = {
        "pgd": {**PGD, "eps": "8/510", "restarts": 1, "random_start": True, "norm": "linf", "alpha": None},
        "mi": {**MI, "decay": 1, "target": "megalith", "objective": "cross-entropy"},
    }
    changes = {"views": ["center"], "canvas": {"resize": 256}, "defenses": {"jpeg": {"quality": "75"}}}
    assert grown(tiny_run, tmp_path, attacks=attacks, **changes) == {}


def test_less_is_asked_and_nothing_is_lost(tiny_run: Finished, tmp_path: Path) -> None:
    """Another name for the experiment, and one attack and the defence left out: what there is stays, and is whole."""
    attacks = {"mi": tiny()["attacks"]["mi"]}
    assert grown(tiny_run, tmp_path, name="renamed", attacks=attacks, defenses={}) == {}
    said = json.loads((tmp_path / "run" / "run.json").read_text())
    assert set(said["definitions"]["attacks"]) == {"pgd", "mi"}
    # The attack that was left out still has its meaning.
    changed = tiny(attacks={"pgd": {**tiny()["attacks"]["pgd"], "eps": "2/255"}})
    assert "attacks.pgd.eps" in refused(written(tmp_path, changed, "changed.yaml"), tmp_path / "run")


@pytest.mark.parametrize(
    ("key", "value"),
    [("defense", "lowpass:cutoff=0.5"), ("objective", "margin"), ("random_start", False), ("view", "ten-crop")],
)
def test_a_key_that_attacks_got_later_had_its_default(key: str, value: Any, tiny_run: Finished, tmp_path: Path) -> None:
    """A run made before there was such a key goes on, but not with another value of it."""
    output = tiny_run.copy(tmp_path / "run")
    said = json.loads((output / "run.json").read_text())
    del said["definitions"]["attacks"]["pgd"][key]
    (output / "run.json").write_text(json.dumps(said))
    attacks = {**tiny()["attacks"], "pgd": {**tiny()["attacks"]["pgd"], key: value}}
    assert f"attacks.pgd.{key}" in refused(written(tmp_path, tiny(attacks=attacks), "changed.yaml"), output)
    run(tiny_run.experiment, output)


def test_the_same_command_again_does_nothing(
    tiny_run: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("there is nothing to do")

    output = tiny_run.copy(tmp_path / "run")
    before = stamps(output)
    monkeypatch.setattr(pipeline.run.execute, "build", never)
    monkeypatch.setattr(ModelSource, "load", never)  # no model is even loaded
    result = run(tiny_run.experiment, output)
    assert stamps(output) == before
    assert contents(output) == contents(tiny_run.output)
    assert "Clean accuracy" in result.stdout


# --- finished, and something else is wanted under an old name


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({"attacks": {"mi": {**MI, "eps": "2/255"}}}, ["attacks.mi.eps", "4/255", "2/255"], id="eps"),
        pytest.param({"attacks": {"mi": {**MI, "steps": 3}}}, ["attacks.mi", "steps", "2", "3"], id="steps"),
        pytest.param({"attacks": {"mi": {**MI, "decay": 0.5}}}, ["attacks.mi", "decay", "1/2"], id="decay"),
        pytest.param({"attacks": {"pgd": {**PGD, "restarts": 2}}}, ["attacks.pgd", "restarts"], id="restarts"),
        pytest.param({"attacks": {"mi": {**MI, "target": 145}}}, ["attacks.mi.target", "649", "145"], id="target"),
        pytest.param({"attacks": {"mi": {**MI, "norm": "l2"}}}, ["attacks.mi.norm", "linf", "l2"], id="norm"),
        pytest.param(
            {"attacks": {"mi": {**MI, "recipe": "bim"}}}, ["attacks.mi.recipe", "bim", "mi-fgsm"], id="recipe"
        ),
        pytest.param({"attacks": {"mi": {**MI, "surrogates": ["lite1"]}}}, ["attacks.mi.surrogates"], id="surrogates"),
        pytest.param({"seed": 4}, ["seed", "3", "4"], id="seed"),
        pytest.param({"chunk_size": 3}, ["chunk_size", "2", "3"], id="chunk-size"),
        pytest.param({"canvas": {"resize": 224, "crop": 224}}, ["canvas.resize", "256", "224"], id="canvas"),
        pytest.param({"all_probabilities": True}, ["all_probabilities"], id="all-probabilities"),
        pytest.param(
            {"models": {**MODELS, "lite0": "packaged/efficientnet-lite2"}},
            ["models.lite0", MODELS["lite0"], "packaged/efficientnet-lite2"],
            id="model-source",
        ),
        pytest.param(
            {"models": {**MODELS, "lite0": {"source": MODELS["lite0"], "weights": OTHER_WEIGHTS}}},
            ["models.lite0.weights_sha256"],
            id="weights",
        ),
        pytest.param(
            {"images": {"samples": "foolbox", "select": [file.stem for file in sample_files()[:2]]}},
            ["images", "3", "2"],
            id="fewer-images",
        ),
        pytest.param(
            {"images": {"samples": "foolbox", "select": [file.stem for file in sample_files()[1:4]]}},
            ["images"],
            id="other-images",
        ),
    ],
)
def test_another_meaning_of_an_old_name_is_refused(
    changes: dict[str, Any], words: list[str], tiny_run: Finished, tmp_path: Path
) -> None:
    output = tiny_run.copy(tmp_path / "run")
    before = everything(output)
    said = refused(written(tmp_path, tiny(**changes)), output)
    assert [word for word in words if word not in said] == []
    assert everything(output) == before


# --- finished, and then damaged

IMAGES = "images/chunk-00000.parquet"
CLEAN = "canvases/attack=none/chunk-00001.parquet"
ATTACKED = "canvases/attack=pgd/chunk-00000.parquet"
ATTACKS = "attacks/attack=mi/chunk-00001.parquet"
PREDICTIONS = "predictions/attack=pgd/model=lite0/view=center/defense=jpeg%3Aquality%3D75/chunk-00000.parquet"


@pytest.mark.parametrize("lost", [IMAGES, CLEAN, ATTACKED, ATTACKS, PREDICTIONS], ids=lambda path: path.split("/")[0])
def test_a_deleted_part_is_made_again_and_no_other(lost: str, tiny_run: Finished, tmp_path: Path) -> None:
    output = tiny_run.copy(tmp_path / "run")
    (output / lost).unlink()
    before = stamps(output)
    run(tiny_run.experiment, output)
    assert contents(output) == contents(tiny_run.output)
    after = stamps(output)
    assert [path for path in before if after[path] != before[path]] == []


@pytest.mark.parametrize("size", [0, 3, 4, 0.5, -1], ids=["empty", "3-bytes", "4-bytes", "half", "all-but-one"])
def test_truncated_parts_are_made_again(size: float, tiny_run: Finished, tmp_path: Path) -> None:
    """What a full disk, or power lost before the bytes had reached the disk, leaves behind."""
    output = tiny_run.copy(tmp_path / "run")
    for path in (IMAGES, CLEAN, ATTACKED, ATTACKS, PREDICTIONS):
        whole = (output / path).read_bytes()
        (output / path).write_bytes(whole[: int(len(whole) * size) if size == 0.5 else int(size)])
    planned = invoke("plan", tiny_run.experiment, "--output", output).stdout
    assert "damaged parts: 5" in planned and "about 0 forward" not in planned
    run(tiny_run.experiment, output)
    assert contents(output) == contents(tiny_run.output)


@pytest.mark.parametrize("damage", [b"", b"PAR1 and no more"])
def test_without_the_reason_why_a_prediction_is_not_there_it_is_made_again(
    damage: bytes, tiny_run: Finished, tmp_path: Path
) -> None:
    output = tiny_run.copy(tmp_path / "run")
    reason = Part("failures", 0, ("predict", "pgd", "lite0", "center", "jpeg:quality=75"))
    Store(str(output)).publish(reason, rows_table("failures", [failure_row("x", "ProcessDied", "it died")]))
    before = stamps(output)
    (output / reason.path).write_bytes(damage)
    run(tiny_run.experiment, output)
    assert contents(output) == contents(tiny_run.output)
    after = stamps(output)
    assert {path for path in after if after[path] != before[path]} == {PREDICTIONS}


STRANGERS = {
    "a copy beside it": "images/chunk-00000 (1).parquet",
    "a Mac's shadow": "images/._chunk-00000.parquet",
    "another program's": "images/part-0.parquet",
    "a chunk that the run does not have": "images/chunk-00007.parquet",
    "a number with more zeros": "images/chunk-000001.parquet",
    "a folder's copy": "predictions/attack=pgd/model=lite0/view=center/defense=none copy/chunk-00000.parquet",
    "a folder too deep": "predictions/attack=pgd/model=lite0/view=center/defense=none/old/chunk-00000.parquet",
    "a folder too high": "predictions/attack=pgd/chunk-00000.parquet",
    "a folder that is not quoted": "attacks/attack=a:b/chunk-00000.parquet",
    "an attack that nobody defined": "attacks/attack=mine/chunk-00000.parquet",
    "a model that nobody defined": "predictions/attack=pgd/model=mine/view=center/defense=none/chunk-00000.parquet",
    "canvases that nobody kept": "canvases/attack=pgd/mine.parquet",
    "a table of their own": "mine/chunk-00000.parquet",
    "at the top": "chunk-00000.parquet",
}


@pytest.mark.parametrize("content", ["a part", "no Parquet"])
@pytest.mark.parametrize("keep", [True, False])
def test_files_of_others_are_neither_read_nor_removed(
    content: str, keep: bool, tiny_run: Finished, tmp_path: Path
) -> None:
    """Whatever they hold, and wherever they lie: tables are as before, and what was passed over is said."""
    output = tiny_run.copy(tmp_path / "run")
    if not keep:
        shutil.rmtree(output / "canvases" / "attack=pgd")
        shutil.rmtree(output / "canvases" / "attack=mi")
    own = contents(output)
    for path in STRANGERS.values():
        (output / path).parent.mkdir(parents=True, exist_ok=True)
        table = path.partition("/")[0]
        part = next((own[each] for each in own if each.startswith(f"{table}/")), b"")
        (output / path).write_bytes(part if content == "a part" else b"PARE")
    before = contents(output)
    run(written(tmp_path, tiny(keep_canvases=keep)), output)
    assert contents(output) == before
    in_tables = [path for path in STRANGERS.values() if path.partition("/")[0] in TABLES]
    with pytest.warns(UserWarning, match=f": {len(in_tables)} files that are not this run's own are passed over: "):
        results = open_run(str(output))
        for table in TABLES:
            _, ((count,),) = results.rows(f"select count(*) from {table}")  # noqa: S608 - names of ours
            assert (
                count
                == len(results.read(table))
                == sum(pq.read_metadata(output / path).num_rows for path in own if path.startswith(f"{table}/"))
            )
    if keep:
        verified = invoke("verify", output, "--sample", 0)
        assert verified.exit_code == 0 and f"{in_tables[0]} is not this run's own" in verified.stdout
    assert contents(output) == before


def test_what_cannot_be_listed_is_not_taken_for_missing(tiny_run: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_listing(monkeypatch, "attack=pgd")
    with pytest.raises(PermissionError, match="attack=pgd"):
        open_run(str(tiny_run.output)).sql("select count(*) from attacks")
    # What the commands end is this process.
    monkeypatch.setattr(atexit, "_run_exitfuncs", lambda: None)
    monkeypatch.setattr(os, "_exit", sys.exit)
    experiment = [tiny_run.experiment, "--output", tiny_run.output]
    for arguments in (["sql", tiny_run.output, "select 1"], ["plan", *experiment], ["run", *experiment]):
        result = invoke(*arguments)
        (said,) = result.stderr.splitlines()
        assert result.exit_code == 1 and said.startswith("megalith: ") and "Permission denied" in said


def test_a_run_that_another_overtook_is_refused(tmp_path: Path) -> None:
    """Between the plan and the lock: its own names may have got another meaning."""
    output, slow = tmp_path / "run", tiny(attacks={"pgd": {**PGD, "eps": "2/255"}}, defenses={})
    prepared = prepare(load_experiment(str(written(tmp_path, slow))), str(output))
    run(written(tmp_path, tiny(attacks={"pgd": PGD}, defenses={})), output)
    before = everything(output)
    with pytest.raises(InputError, match=r"another run was at work in .*; give the same command again"):
        execute(prepared, runner_options("direct", []), "cpu", lambda _: None, pytest.fail)
    assert everything(output) == before


def test_only_canvases_of_its_own_attacks_are_not_kept(tiny_run: Finished, tmp_path: Path) -> None:
    output = tiny_run.copy(tmp_path / "run")
    run(written(tmp_path, tiny(attacks={"mi": MI}, keep_canvases=False)), output)
    assert stamps(tiny_run.output).keys() - stamps(output).keys() == {
        f"canvases/attack=mi/chunk-{number:05d}.parquet" for number in range(2)
    }


@pytest.mark.parametrize(
    ("intact", "damaged", "named"),
    [
        ('"definitions": {', "", "run.json is damaged"),
        ('"count": 3', '"count": "3"', "definitions.images.count"),
        ('"weights_sha256"', '"digest"', "definitions.models.lite0.weights_sha256"),
        ('"crop"', '"corp"', "definitions.canvas.crop"),
    ],
)
def test_a_damaged_run_json_is_refused(
    intact: str, damaged: str, named: str, tiny_run: Finished, tmp_path: Path
) -> None:
    output = tiny_run.copy(tmp_path / "run")
    text = (output / "run.json").read_text()
    definitions = text.index('"definitions"')
    assert intact in text[definitions:]
    (output / "run.json").write_text(text[:definitions] + text[definitions:].replace(intact, damaged, 1))
    before = everything(output)
    assert named in refused(tiny_run.experiment, output)
    assert everything(output) == before


HOSTILE: dict[str, tuple[str, list[Any]]] = {
    "chunks of nothing": ("definitions.chunk_size", [0, -1, 10**12, 1.5, None]),
    "images without end": ("definitions.images.count", [10**12, -1, None]),
    "a canvas of no size": ("definitions.canvas.crop", [0, -1, 10**12]),
    "an attack without keys": ("definitions.attacks.mi", [{}, None, {"recipe": "mi-fgsm", "surrogates": ["lite0"]}]),
    "a model without keys": ("definitions.models.lite0", [{}, [], {"source": "x"}]),
    "an experiment without keys": ("experiment", [{}, None, []]),
    "names that are none": ("experiment.defenses", [None, 0, [[[]]], "../../etc", ["a", "a"], {"a": 1}]),
    "attacks that are none": ("experiment.attacks", [0, True, "x"]),
    "views that are none": ("experiment.views", [0, True, ["a", "a"]]),
    "models that are none": ("experiment.models", [0, {"lite0": 7}]),
    "counts that are none": ("proofs.lite0", [[], [1], [10**12, 0], "x"]),
    "costs that are none": ("costs", [0, [0], {}]),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_run_json_is_refused_or_does_no_harm(what: str, tiny_run: Finished, tmp_path: Path) -> None:
    """Whatever it says, each command ends soon, with at most one line of complaint."""
    output = tiny_run.copy(tmp_path / "run")
    said = json.loads((output / "run.json").read_text())
    path, values = HOSTILE[what]
    *parents, key = path.split(".")
    for value in values:
        hostile = deepcopy(said)
        place = hostile
        for parent in parents:
            place = place[parent]
        place[key] = value
        (output / "run.json").write_text(json.dumps(hostile))
        for arguments in (
            ("sql", output, "select count(*) from transfer"),
            ("verify", output, "--sample", "1"),
            ("plan", tiny_run.experiment, "--output", output),
        ):
            result = invoke(*arguments)
            assert result.exit_code in (0, 2, 3), (value, arguments)
            complaints = [line for line in result.stderr.splitlines() if line.startswith("megalith: ")]
            assert len(complaints) == (result.exit_code == 2), (value, result.stderr)
        with suppress(InputError):
            print_summary(open_run(str(output)), Console(file=io.StringIO()))


def test_leftovers_are_removed_where_the_path_has_special_characters(tiny_run: Finished, tmp_path: Path) -> None:
    output = tiny_run.copy(tmp_path / "[runs] of 100 %" / "a*b?")
    (output / PREDICTIONS).write_bytes(b"PAR1 and no more")
    (output / IMAGES).with_name(".chunk-00000.parquet.0123456789abcdef0123456789abcdef.tmp").write_bytes(b"PAR1")
    run(tiny_run.experiment, output)
    assert contents(output) == contents(tiny_run.output)
    assert unpublished(output) == []


def test_out_of_memory_halves_the_micro_batch_for_all_that_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is said, written down, and nothing that was computed is lost: the rows are those of a run of that size."""
    path = written(tmp_path, tiny(attacks={"pgd": PGD}, defenses={}))
    run(path, tmp_path / "small", "--set=micro_batch=1")
    forward = Classifier.forward

    def tight(classifier: Classifier, windows: Tensor) -> Tensor:
        if len(windows) > 1 and windows.requires_grad:
            raise torch.OutOfMemoryError("fake")
        return forward(classifier, windows)

    monkeypatch.setattr(Classifier, "forward", tight)
    result = run(path, tmp_path / "run")
    assert "warning: out of memory; going on with micro_batch 1" in result.stderr
    assert json.loads((tmp_path / "run" / "run.json").read_text())["definitions"]["micro_batch"] == 1
    small, halved = (rows(tmp_path / name, "attacks") for name in ("small", "run"))
    assert [row["canvas_sha256"] for row in halved] == [row["canvas_sha256"] for row in small]


def test_a_cpu_without_memory_for_one_image_stops_the_run_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's error there is a plain RuntimeError; nothing is left to halve, and nothing is to blame for it."""
    path = written(tmp_path, tiny(attacks={"pgd": PGD}, defenses={}))

    def greedy(_classifier: Classifier, _windows: Tensor) -> Tensor:
        return torch.empty(2**46)  # 256 TiB, which no machine has: the allocator's own words

    with monkeypatch.context() as patched:
        patched.setattr(Classifier, "forward", greedy)
        patched.setattr(pipeline.cli.process, "leave", left)
        stopped = run(path, tmp_path / "run", "--set=micro_batch=1", code=1)
    message = stopped.stderr.splitlines()[-1]
    assert message.startswith("megalith: stopped: ") and "can't allocate memory" in message
    assert message.endswith("; what is finished is kept, the same command goes on")
    run(path, tmp_path / "run", "--set=micro_batch=1")
    assert rows(tmp_path / "run", "failures") == []
