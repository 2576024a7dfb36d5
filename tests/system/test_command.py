"""The command as a user meets it: wrong input gets one line and exit code 2, and what it prints can be used."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from signal import SIGPIPE
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest
import torch

from pipeline.main import main
from pipeline.results.formats import FORMS
from pipeline.results.outcomes import DENOMINATORS, KEYS, METRICS
from tests.support.made import answers, made_run, two_models
from tests.support.preforked import start
from tests.support.runs import (
    COARSE,
    MEGALITH,
    Finished,
    command,
    complaint,
    contents,
    count_by_table,
    everything,
    invoke,
    is_root,
    refused,
    rows,
    run,
    sample_files,
    stamps,
    tiny,
    written,
)
from transforms.attacks.recipes.names import RECIPES, recipe
from transforms.defenses.registry import DEFENSES
from transforms.models.sources.registry import model_source
from transforms.models.views import VIEWS

pytestmark = pytest.mark.system

PGD = {"recipe": "pgd", "surrogates": ["lite0"], "eps": "4/255", "steps": 1}
SAMPLES = {"samples": "foolbox"}


def attack(**changes: Any) -> dict[str, Any]:
    return {"attacks": {"pgd": {**PGD, **changes}}}


# --- wrong experiments

WRONG = {
    "recipe": (attack(recipe="mi-fsgm"), ["attacks.pgd", "recipe", "'mi-fsgm'", "did you mean 'mi-fgsm'?"]),
    "recipe in capitals": (attack(recipe="MI-FGSM"), ["did you mean 'mi-fgsm'?"]),
    "library's recipe in small letters": (attack(recipe="torchattacks/pgd"), ["did you mean 'PGD'?"]),
    "no recipe": ({"attacks": {"pgd": {"surrogates": ["lite0"], "eps": "4/255"}}}, ["attacks.pgd: recipe: is missing"]),
    "key": ({"chunksize": 4}, ["'chunksize'", "did you mean 'chunk_size'?"]),
    "key of images": ({"images": {"sample": "foolbox"}}, ["images"]),
    "key of an attack": (attack(target_class=3), ["attacks.pgd", "'target_class'", "did you mean 'target'?"]),
    "parameter of a recipe": (attack(step=3), ["attacks.pgd", "'step'", "did you mean 'steps'?"]),
    "key of a model": ({"models": {"lite0": {"sauce": "x"}}}, ["models.lite0", "'sauce'", "did you mean 'source'?"]),
    "model": (
        {"models": {"lite0": "packaged/efficientnet-lite7"}},
        ["models.lite0", "'efficientnet-lite7'", "did you mean 'efficientnet-lite"],
    ),
    "model source": ({"models": {"lite0": "torchvison/resnet50"}}, ["models.lite0", "did you mean 'torchvision'?"]),
    "model without its source": (
        {"models": {"lite0": "efficientnet-lite0"}},
        ["models.lite0", "did you mean 'packaged/efficientnet-lite0'?"],
    ),
    "weights": (
        {"models": {"lite0": "torchvision/resnet50@IMAGENET1K_V3"}},
        ["models.lite0", "'IMAGENET1K_V3'", "IMAGENET1K_V"],
    ),
    "no weights": ({"models": {"lite0": "torchvision/resnet50"}}, ["models.lite0", "resnet50@IMAGENET1K"]),
    "no checkpoint": (
        {"models": {"lite0": {"source": "packaged/efficientnet-lite0", "weights": "no.pth"}}},
        ["models.lite0", "'no.pth'"],
    ),
    "target model": ({"targets": ["lite0", "lite9"]}, ["targets", "'lite9'", "did you mean 'lite"]),
    "target twice": ({"targets": ["lite0", "lite0"]}, ["targets", "'lite0'", "twice"]),
    "no target": ({"targets": []}, ["targets"]),
    "surrogate": (attack(surrogates=["lit0"]), ["attacks.pgd.surrogates", "'lit0'", "did you mean 'lite0'?"]),
    "no surrogate": (attack(surrogates=[]), ["attacks.pgd: surrogates: pgd needs 1 or more"]),
    "surrogate missing": (
        {"attacks": {"pgd": {"recipe": "pgd", "eps": "4/255"}}},
        ["attacks.pgd: surrogates: pgd needs 1 or more"],
    ),
    "unknown class": (attack(target="king pinguin"), ["attacks.pgd.target", "king pinguin", "'king penguin' (145"]),
    "ambiguous class": (attack(target="crane"), ["attacks.pgd.target", "'crane'", "134", "517"]),
    "class out of range": (attack(target=1000), ["attacks.pgd.target", "1000", "0–999"]),
    "names in two cases": (
        {"attacks": {name: {"recipe": "pgd", "surrogates": ["lite0"], "eps": "4/255"} for name in ("pgd", "PGD")}},
        ["attacks", "'pgd' and 'PGD'", "upper and lower case"],
    ),
    "models in two cases": ({"models": {"lite0": "coarse0", "Lite0": "coarse0"}}, ["models", "'lite0' and 'Lite0'"]),
    "canvas too small": ({"canvas": {"resize": 16, "crop": 10}}, ["canvas: crop: 10", "11 or more"]),
    "defense": ({"defenses": {"lowpas": {"cutoff": [0.5]}}}, ["'lowpas'", "did you mean 'lowpass'?"]),
    "parameter of a defense": ({"defenses": {"lowpass": {"cutof": [0.5]}}}, ["'cutof'", "did you mean 'cutoff'?"]),
    "defense out of range": ({"defenses": {"lowpass": {"cutoff": [0.5, 1.5]}}}, ["lowpass", "1.5", "(0, 1]"]),
    "defense half": ({"defenses": {"jpeg": {"quality": [75.5]}}}, ["defenses.jpeg.quality", "75.5"]),
    "defense no number": ({"defenses": {"jpeg": {"quality": ["good"]}}}, ["'good'"]),
    "defense without values": ({"defenses": {"jpeg": {}}}, ["jpeg", "'quality'"]),
    "defense empty": ({"defenses": {"jpeg": {"quality": []}}}, ["jpeg", "quality"]),
    "defense twice": ({"defenses": {"jpeg": {"quality": [75, 75]}}}, ["jpeg", "quality", "75"]),
    "defense no grid": ({"defenses": {"jpeg": 75}}, ["defenses.jpeg"]),
    "defenses a list": ({"defenses": ["jpeg"]}, ["defenses"]),
    "view": ({"views": ["centre"]}, ["views", "'centre'", "did you mean 'center'?"]),
    "view of an attack": (attack(view="centre"), ["attacks.pgd.view", "did you mean 'center'?"]),
    "norm": (attack(norm="linff"), ["attacks.pgd.norm", "did you mean 'linf'?"]),
    "objective": (attack(objective="cross-entropie"), ["attacks.pgd.objective", "did you mean 'cross-entropy'?"]),
    "fusion": (attack(fuse="logit"), ["attacks.pgd.fuse", "'logits'"]),
    "fusion of one": (attack(fuse="losses"), ["attacks.pgd", "fuse", "losses", "no effect with one surrogate"]),
    "part of a recipe": (attack(recipe="mi-dj-ti"), ["attacks.pgd", "'mi-dj-ti'", "'dj'", "did you mean 'di'?"]),
    "key of a part": (
        attack(recipe="mi-di", resize_rat=1.2),
        ["attacks.pgd", "resize_rat", "did you mean 'resize_rate'?"],
    ),
    "recipe without that part": (attack(recipe="mi-di", kernel_size=5), ["attacks.pgd", "'kernel_size'"]),
    "untargeted recipe": (
        attack(recipe="adaea", surrogates=["lite0", "lite1"], target="megalith"),
        ["attacks.pgd", "target", "adaea cannot be targeted"],
    ),
    "targeted recipe": (attack(recipe="logit"), ["attacks.pgd", "target", "logit needs one"]),
    "recipe for several": (attack(recipe="svre"), ["attacks.pgd", "surrogates", "svre needs 2 or more, not 1"]),
    "norm of a recipe": (attack(recipe="pi-fgsm", norm="l2", eps=3), ["attacks.pgd", "norm", "pi-fgsm bounds linf"]),
    "restarts of nothing": (attack(recipe="bim", restarts=2), ["attacks.pgd", "restarts", "2", "same run"]),
    "eot of nothing": (attack(eot=4), ["attacks.pgd", "eot", "4", "random"]),
    "keep of a single step": (attack(steps=1, keep="best"), ["attacks.pgd", "keep", "best", "no effect"]),
    "precision": (attack(precision="fp8"), ["attacks.pgd.precision", "'fp8'"]),
    "known defense": (attack(defense="lowpas:cutoff=0.5"), ["attacks.pgd.defense", "did you mean 'lowpass'?"]),
    "known defense out of range": (attack(defense="lowpass:cutoff=2"), ["attacks.pgd.defense", "2", "(0, 1]"]),
    "known defense without value": (attack(defense="lowpass"), ["attacks.pgd.defense", "cutoff"]),
    "known defense as a section": (attack(defense={"lowpass": 0.5}), ["attacks.pgd.defense", "lowpass:cutoff=0.5"]),
    "resize rates": (attack(recipe="dem", resize_rates=[1.2, 0.9]), ["attacks.pgd", "resize_rates", "0.9"]),
    "alpha as pixels": (attack(alpha=2), ["attacks.pgd", "alpha", "did you mean 2/255?"]),
    "alpha of a library": (attack(recipe="torchattacks/PGD", alpha=2), ["attacks.pgd", "alpha", "did you mean 2/255?"]),
    "steps of a single step": (
        attack(recipe="fgsm", steps=5),
        ["attacks.pgd", "fgsm has no parameter 'steps'; it has objective"],
    ),
    "half a name": (attack(recipe="apgd"), ["'apgd'", "apgd-ce or apgd-dlr or apgd-t"]),
    "known defense half written": (
        attack(defense="lowpass"),
        ["attacks.pgd.defense", "needs cutoff, as in lowpass:cutoff="],
    ),
    "one surrogate": (attack(surrogates="lite0"), ["attacks.pgd.surrogates", "a list, as in [lite0]"]),
    "more blocks than pixels": (attack(recipe="bsr", shuffle_blocks=500), ["attacks.pgd", "shuffle_blocks", "500"]),
    "no enlargement": (attack(recipe="di-fgsm", resize_rate=1.001), ["attacks.pgd", "resize_rate", "1.001", "224"]),
    "no enlargement at one of several rates": (
        attack(recipe="dem", resize_rates=[1.14, 1.001]),
        ["attacks.pgd", "resize_rate", "1.001"],
    ),
    "eps as pixels": (attack(eps=4), ["attacks.pgd", "eps", "did you mean 4/255?"]),
    "eps zero": (attack(eps=0), ["attacks.pgd", "eps", "0", "1/255"]),
    "eps negative": (attack(eps="-4/255"), ["attacks.pgd", "eps", "-4/255"]),
    "eps too small": (attack(eps="1/256"), ["attacks.pgd", "eps", "1/256", "1/255"]),
    "eps as text": (attack(eps="four"), ["attacks.pgd.eps", "'four'", "8/255"]),
    "eps divided by zero": (attack(eps="4/0"), ["attacks.pgd.eps", "'4/0'"]),
    "eps missing": ({"attacks": {"pgd": {"recipe": "pgd", "surrogates": ["lite0"]}}}, ["attacks.pgd.eps", "missing"]),
    "eps as nothing": (attack(eps=None), ["attacks.pgd", "eps", "missing", "4/255"]),
    "l2 eps too small": (attack(norm="l2", eps="1/256"), ["attacks.pgd", "eps", "1/256", "grey level"]),
    "steps zero": (attack(steps=0), ["attacks.pgd", "steps", "0"]),
    "steps a half": (attack(steps=1.5), ["attacks.pgd.steps", "1.5"]),
    "steps as text": (attack(steps="1"), ["attacks.pgd.steps", "'1'"]),
    "alpha negative": (attack(alpha=-1), ["attacks.pgd", "alpha", "-1"]),
    "attack called none": ({"attacks": {"none": PGD}}, ["attacks.none"]),
    "attack with a path for a name": (
        {"attacks": {"../pgd": PGD}},
        ["attacks.../pgd: '../pgd' is no name: a letter, then"],
    ),
    "chunk size": ({"chunk_size": 0}, ["chunk_size", "0"]),
    "chunk size as text": ({"chunk_size": "4"}, ["chunk_size", "'4'"]),
    "seed": ({"seed": -1}, ["seed", "-1"]),
    "canvas": ({"canvas": {"resize": 224, "crop": 256}}, ["canvas: crop: 256"]),
    "canvas as a number": ({"canvas": 224}, ["canvas", "224"]),
    "missing folder": ({"images": {"folder": "no/such/folder"}}, ["images.folder", "no/such/folder"]),
    "missing image": ({"images": {**SAMPLES, "select": ["imagenet_00_24"]}}, ["images.select", "imagenet_00_243"]),
    "no source": ({"images": {"limit": 3}}, ["images", "samples, folder, imagenet"]),
    "two sources": ({"images": {**SAMPLES, "folder": "."}}, ["images", "samples, folder"]),
    "more than there are": ({"images": {**SAMPLES, "sample": 21}}, ["images.sample", "21", "20"]),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_experiment_is_refused_in_one_line(wrong: str, tmp_path: Path) -> None:
    changes, words = WRONG[wrong]
    said = refused(written(tmp_path, tiny(**changes)), tmp_path / "run")
    assert [word for word in words if word not in said] == [], said
    assert not (tmp_path / "run").exists()


def test_an_experiment_without_its_sections(tmp_path: Path) -> None:
    for key in ("name", "images", "models"):
        experiment = {name: value for name, value in tiny().items() if name != key}
        said = refused(written(tmp_path, experiment), tmp_path / "run")
        assert f"{key}: is missing" in said
    assert not (tmp_path / "run").exists()


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    said = refused(written(tmp_path, tiny(images={"folder": str(tmp_path / "images")})), tmp_path / "run")
    assert "images.folder" in said and str(tmp_path / "images") in said
    assert not (tmp_path / "run").exists()


def test_a_file_for_a_run_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    assert f"{tmp_path / 'run'} is a file" in refused(written(tmp_path, tiny()), tmp_path / "run")


@pytest.mark.parametrize(
    ("norm", "eps", "warned"),
    [
        ("linf", "4/256", "1/64 is 3.98 grey levels, of which 8-bit pictures use 3"),
        ("linf", "8/225", "8/225 is 9.07 grey levels, of which 8-bit pictures use 9"),
        ("linf", "0.8", "4/5 is 204 of 255 grey levels; 8/255 is usual"),
        ("linf", "0.0314", None),
        ("linf", "8/255", None),
        ("l2", "4/255", "4/255 in l2 changes 16 values of a picture by one level at most"),
        ("l2", "0.25", None),
        ("l1", "4/255", "4/255 in l1 changes 4 values of a picture by one level at most"),
    ],
)
def test_a_strange_budget_is_said(norm: str, eps: str, warned: str | None, tmp_path: Path) -> None:
    experiment = written(tmp_path, tiny(**attack(norm=norm, eps=eps)))
    planned = invoke("plan", experiment, "--output", tmp_path / "run")
    assert planned.exit_code == 0
    assert planned.stderr == ("" if warned is None else f"warning: attacks.pgd.eps: {warned}\n")


# --- wrong commands


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run"], ["EXPERIMENT.yaml"]),
        (["run", "experiment.yaml"], ["--output"]),
        (["run", "experiment.yaml", "--output"], ["--output"]),
        (["list", "vews"], ["vews", "views"]),
        (["sql", "run", "select 1", "--format", "xml"], ["xml", "json"]),
        (["runn"], ["runn"]),
    ],
    ids=" ".join,
)
def test_a_wrong_command_is_refused_in_one_line(
    arguments: list[str], words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["megalith", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("megalith: ")
    assert [word for word in words if word not in said] == []


# --- wrong files

TEXTS = {
    "duplicate key": ("name: a\nseed: 1\nseed: 2\n", ["line 3 has the key 'seed' for the second time"]),
    "not YAML": ("name: [a\n", ["not valid YAML"]),
    "tabs": ("images:\n\tsamples: foolbox\n", ["not valid YAML"]),
    "a list": ("- name\n- seed\n", ["mapping"]),
    "a word": ("experiment", ["mapping"]),
    "empty": ("", ["mapping"]),
    "a number for a key": ("1: 2\n", ["unknown key '1'"]),
    "two documents": ("name: a\n---\nname: b\n", ["not valid YAML"]),
    "code": ("name: !!python/object/apply:os.getcwd []\n", ["not valid YAML"]),
}


@pytest.mark.parametrize("text", TEXTS)
def test_a_wrong_file_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    content, words = TEXTS[text]
    path = tmp_path / "experiment.yaml"
    path.write_text(content)
    said = refused(path, tmp_path / "run")
    assert [word for word in [str(path), *words] if word not in said] == [], said
    assert not (tmp_path / "run").exists()


def test_a_missing_or_unreadable_file_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes("name: é".encode("latin-1"))
    for path in (tmp_path / "absent.yaml", tmp_path, tmp_path / "latin.yaml"):
        assert str(path) in refused(path, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- wrong options

OPTIONS = {
    "runner": (["--runner=drect"], ["runner", "'drect'", "did you mean 'direct'?"]),
    "Beam's option": (["--direct_num_worker=2"], ["'--direct_num_worker'", "did you mean '--direct_num_workers'?"]),
    "value of Beam's option": (["--direct_num_workers=two"], ["direct_num_workers", "two"]),
    "mode": (["--direct_running_mode=slow"], ["direct_running_mode", "slow"]),
    "option without its value": (["--direct_num_workers"], ["direct_num_workers"]),
    "device": (["--device=tpu"], ["device", "'tpu'", "cpu"]),
    "change without =": (["--set", "seed"], ["--set", "'seed'", "key.key=value"]),
    "change without key": (["--set", "=3"], ["--set", "'=3'"]),
    "change below a number": (["--set", "seed.x=3"], ["--set", "seed"]),
    "change of an unknown key": (["--set", "sed=3"], ["'sed'", "did you mean 'seed'?"]),
    "change of an attack that is misspelled": (["--set", "attacks.pgdd.eps=4/255"], ["recipe", "did you mean 'pgd'?"]),
    "change that is not YAML": (["--set", "seed=[3"], ["--set", "seed"]),
    "change to a wrong value": (["--set", "attacks.pgd.eps=4"], ["attacks.pgd", "4/255"]),
}


@pytest.mark.parametrize("wrong", OPTIONS)
def test_a_wrong_option_is_refused_in_one_line(wrong: str, tmp_path: Path) -> None:
    options, words = OPTIONS[wrong]
    said = refused(written(tmp_path, tiny()), tmp_path / "run", *options)
    assert [word for word in words if word not in said] == [], said
    assert not (tmp_path / "run").exists()


def test_an_option_that_is_missing_because_it_is_misspelled(tmp_path: Path) -> None:
    said = complaint(command("run", written(tmp_path, tiny()), "--outptu", tmp_path / "run", cwd=tmp_path))
    assert "'--output'" in said and "--outptu: did you mean --output?" in said


def test_cuda_where_there_is_none(tmp_path: Path) -> None:
    device = "cuda:99" if torch.cuda.is_available() else "cuda"
    said = refused(written(tmp_path, tiny()), tmp_path / "run", f"--device={device}")
    assert f"'{device}'" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command_", ["run", "plan"])
def test_foreign_files_are_not_a_run_directory(command_: str, tmp_path: Path) -> None:
    output = tmp_path / "holiday"
    output.mkdir()
    (output / "photo.jpg").write_bytes(b"mine")
    before = everything(tmp_path)
    experiment = written(tmp_path / "elsewhere", tiny())
    assert "--output" in complaint(invoke(command_, experiment, "--output", output))
    assert everything(output) == {"photo.jpg": before["holiday/photo.jpg"]}


def test_output_that_cannot_be_written(tmp_path: Path) -> None:
    experiment = written(tmp_path, tiny())
    (tmp_path / "file").write_text("mine")
    outputs = [tmp_path / "file" / "run", tmp_path / "file"]
    if sys.platform == "linux":
        outputs.append(Path("/proc/megalith"))
    if not is_root():  # whom no permission stops
        (tmp_path / "locked").mkdir(mode=0o500)
        outputs.append(tmp_path / "locked" / "run")
    for output in outputs:
        said = refused(experiment, output)
        assert "--output" in said and str(output) in said
    assert (tmp_path / "file").read_text() == "mine"


# --- the real command


def test_wrong_input_to_the_real_command(tmp_path: Path) -> None:
    experiment = written(tmp_path, tiny(**attack(eps=4)))
    assert MEGALITH.is_file()
    said = complaint(command("run", experiment, "--output", tmp_path / "run"))
    assert "4/255" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("asked", [("--help",), ("-h",), ("sql", "-h"), ("list", "--help")])
def test_help_is_help_however_it_is_asked_for(asked: tuple[str, ...]) -> None:
    said = command(*asked)
    assert (said.returncode, said.stderr) == (0, "")
    assert said.stdout.startswith("Usage: megalith")
    assert "..." not in said.stdout.replace("[ARGS]...", "")  # no sentence is cut


def test_the_version_is_the_installed_one() -> None:
    assert command("--version").stdout == f"megalith {version('megalith')}\n"


@pytest.mark.parametrize(("typed", "offered"), [("megalith ver", "verify"), ("megalith list def", "defenses")])
def test_a_shell_completes_what_was_typed(typed: str, offered: str) -> None:
    words = {"COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1), "_MEGALITH_COMPLETE": "complete_bash"}
    answer = subprocess.run([MEGALITH], env=os.environ | words, capture_output=True, text=True, check=False)
    assert answer.stdout.split() == [offered]


# --- plan


def planned(stdout: str) -> dict[str, tuple[int, int]]:
    """Tasks in all and to do, by kind, as `plan` prints them."""
    cells = [re.findall(r"[\w,]+", line) for line in stdout.splitlines()]
    return {row[0]: (int(row[1]), int(row[2])) for row in cells if row and row[0] in ("load", "attack", "predict")}


def passes(stdout: str) -> list[int]:
    (line,) = [line for line in stdout.splitlines() if line.startswith("to do")]
    return [int(number.replace(",", "")) for number in re.findall(r"[\d,]+\d|\d", line)]


def test_plan_writes_nothing_and_tells_what_run_does(small_run: Finished, tmp_path: Path) -> None:
    fresh = invoke("plan", small_run.experiment, "--output", tmp_path / "run")
    assert fresh.exit_code == 0, fresh.output
    assert not (tmp_path / "run").exists()
    assert planned(fresh.stdout) == {"load": (3, 3), "attack": (9, 9), "predict": (72, 72)}
    made = count_by_table(stamps(small_run.output))
    assert made == {"images": 3, "canvases": 3 + 9, "attacks": 9, "predictions": 72}
    # Passes: those that the attacks counted, and one for each prediction.
    attacks = rows(small_run.output, "attacks")
    predictions = rows(small_run.output, "predictions")
    forwards = sum(row["forwards"] for row in attacks) + len(predictions)
    assert passes(fresh.stdout) == [forwards, sum(row["backwards"] for row in attacks)]

    before = everything(small_run.output)
    again = invoke("plan", small_run.experiment, "--output", small_run.output)
    assert again.exit_code == 0
    assert planned(again.stdout) == {"load": (3, 0), "attack": (9, 0), "predict": (72, 0)}
    assert passes(again.stdout) == [0, 0]
    more = invoke("plan", small_run.experiment, "--output", small_run.output, "--set", "defenses.blur.sigma=[1.0, 2]")
    assert planned(more.stdout) == {"load": (3, 0), "attack": (9, 0), "predict": (120, 48)}
    assert everything(small_run.output) == before


def test_plan_refuses_what_run_refuses(tiny_run: Finished, tmp_path: Path) -> None:
    said = complaint(invoke("plan", tiny_run.experiment, "--output", tiny_run.output, "--set", "seed=9"))
    assert "seed" in said and "9" in said


# --- list


@pytest.mark.parametrize(
    ("thing", "names"),
    [
        ("attacks", list(RECIPES)),
        ("defenses", list(DEFENSES)),
        ("views", list(VIEWS)),
        ("models", ["packaged/efficientnet-lite0", "torchvision/resnet50@IMAGENET1K_V2"]),
    ],
)
def test_list_shows_every_name_in_full(thing: str, names: list[str]) -> None:
    result = invoke("list", thing)
    assert result.exit_code == 0
    first = [cells[0] for line in result.stdout.splitlines() if (cells := re.findall(r"[^\s│]+", line))]
    assert [name for name in names if name not in first] == []
    assert result.stderr == ""


@pytest.mark.parametrize("name", [*RECIPES, "vmi-di-ti-si", "foolbox/L2PGD"])
def test_list_shows_what_a_recipe_may_be_told(name: str) -> None:
    """With the words that there are to choose from."""
    result = invoke("list", "attacks", name)
    assert result.exit_code == 0
    lines = [cells for line in result.stdout.splitlines() if (cells := re.findall(r"[^\s│,]+", line))]
    assert lines[0][0] == f"{name}:"
    listed = {first: others for first, *others in lines}
    for key, (kind, _) in recipe(name).parameters.items():
        assert set(get_args(kind) if get_origin(kind) is Literal else ()) <= set(listed[key])


def test_list_of_an_attack_that_there_is_not() -> None:
    assert "did you mean 'mi-fgsm'?" in complaint(invoke("list", "attacks", "mi-fsgm"))
    assert "no model has 'nonesuch' in its name" in complaint(invoke("list", "models", "nonesuch"))
    assert "`list attacks NAME`, `list models PART`, `list layers MODEL` do" in complaint(
        invoke("list", "views", "center")
    )


def test_plan_tells_what_each_attack_takes(tmp_path: Path) -> None:
    attacks = {"cw": {"recipe": "cw", "surrogates": ["lite0"], "norm": "l2", "eps": 1}, **tiny()["attacks"]}
    result = invoke("plan", written(tmp_path, tiny(attacks=attacks)), "--output", tmp_path / "run")
    said = {cells[0]: cells[1:] for line in result.stdout.splitlines() if (cells := re.findall(r"[^\s│]+", line))}
    assert said["cw"] == ["270,045", "270,000"]  # three images
    assert said["mi"] == ["6", "6"]


def test_whatever_is_listed_can_be_used(tmp_path: Path) -> None:
    """Each listed recipe, with the parameters as listed, is accepted by an experiment."""
    assert {"fgsm", "bim", "pgd", "mi-fgsm"} <= set(RECIPES)
    attacks = {
        name: {
            "recipe": name,
            "surrogates": ["lite0", "lite1"][: each.models],
            **({"norm": each.norms[0], "eps": "4/255"} if each.norms else {}),
            **({"target": "megalith"} if each.goals == "targeted" else {}),
        }
        for name, each in RECIPES.items()
    }
    attacks["candidates"]["victim"] = "lite1"
    attacks["bases"]["victim"] = "lite2"
    models = {**COARSE, "lite2": "packaged/efficientnet-lite2"}
    attacks["pictures"]["folder"] = str(sample_files()[0].parent)
    result = invoke("plan", written(tmp_path, tiny(attacks=attacks, models=models)), "--output", tmp_path / "run")
    assert result.exit_code == 0, result.output


# --- sql

QUERY = """
select image_id, attack, model, defense, confidence, label_confidence, margin, correct, target, target_confidence
from predictions order by image_id, attack, model, defense
"""


def expected_answer(output: Path) -> list[dict[str, Any]]:
    columns = [
        "image_id",
        "attack",
        "model",
        "defense",
        "confidence",
        "label_confidence",
        "margin",
        "correct",
        "target",
        "target_confidence",
    ]
    found = [{column: row[column] for column in columns} for row in rows(output, "predictions")]
    return sorted(found, key=lambda row: (row["image_id"], row["attack"], row["model"], row["defense"]))


def test_sql_as_json_parses_back(tiny_run: Finished) -> None:
    result = invoke("sql", tiny_run.output, QUERY, "--format", "json")
    assert result.exit_code == 0
    answer = json.loads(result.stdout)
    expected = expected_answer(tiny_run.output)
    assert len(answer) == len(expected) == 3 * 3 * 2
    for row, wanted in zip(answer, expected, strict=True):
        floats = {key for key, value in wanted.items() if isinstance(value, float)}
        assert {key: value for key, value in row.items() if key not in floats} == {
            key: value for key, value in wanted.items() if key not in floats
        }
        assert {key: np.float32(row[key]) for key in floats} == {key: np.float32(wanted[key]) for key in floats}


def test_sql_as_csv_keeps_full_precision(tiny_run: Finished) -> None:
    result = invoke("sql", tiny_run.output, QUERY, "--format", "csv")
    assert result.exit_code == 0
    answer = list(csv.DictReader(io.StringIO(result.stdout)))
    expected = expected_answer(tiny_run.output)
    assert len(answer) == len(expected)
    for row, wanted in zip(answer, expected, strict=True):
        assert row["image_id"] == wanted["image_id"] and row["defense"] == wanted["defense"]
        for key in ("confidence", "label_confidence", "margin"):
            assert np.float32(row[key]) == np.float32(wanted[key])
        if wanted["target"] is None:
            assert row["target"] == "" and row["target_confidence"] == ""
        else:
            assert int(row["target"]) == wanted["target"]
            assert np.float32(row["target_confidence"]) == np.float32(wanted["target_confidence"])


@pytest.mark.parametrize("form", ["csv", "json"])
def test_sql_keeps_doubles_and_lists(form: str, tiny_run: Finished) -> None:
    """eps is a double, and 4/255 has no short decimal; lists of five must not lose their last bits either."""
    attacks = {(row["image_id"], row["attack"]): row for row in rows(tiny_run.output, "attacks")}
    predictions = rows(tiny_run.output, "predictions")
    query = """
      select image_id, attack, eps, l2, psnr, top5_confidences
      from attacks join predictions using (image_id, attack) where defense = 'none'
    """
    result = invoke("sql", tiny_run.output, query, "--format", form)
    assert result.exit_code == 0
    text = result.stdout
    answer = json.loads(text) if form == "json" else list(csv.DictReader(io.StringIO(text)))
    assert len(answer) == 3 * 2
    for row in answer:
        known = attacks[row["image_id"], row["attack"]]
        (top5,) = [
            each["top5_confidences"]
            for each in predictions
            if (each["image_id"], each["attack"], each["defense"]) == (row["image_id"], row["attack"], "none")
        ]
        assert [float(row[key]) for key in ("eps", "l2", "psnr")] == [known[key] for key in ("eps", "l2", "psnr")]
        shown = row["top5_confidences"]
        listed = shown if form == "json" else re.findall(r"[\d.e+-]+", shown)
        assert [np.float32(each) for each in listed] == [np.float32(each) for each in top5]


@pytest.mark.parametrize("form", ["table", "csv", "json"])
def test_sql_shows_every_table_whole(form: str, tiny_run: Finished) -> None:
    """Bytes, lists, nulls, an empty table: whatever a column holds can be printed."""
    for table in ("images", "attacks", "canvases", "predictions", "failures"):
        result = invoke("sql", tiny_run.output, f"select * from {table}", "--format", form)  # noqa: S608
        assert result.exit_code == 0, result.output
        assert result.stderr == ""
        if form == "json":
            assert len(json.loads(result.stdout)) == len(rows(tiny_run.output, table))


def test_sql_as_a_table(tiny_run: Finished) -> None:
    query = "select attack, model, count(*) as n from predictions group by all order by attack"
    result = invoke("sql", tiny_run.output, query)
    assert result.exit_code == 0
    cells = [re.findall(r"[^\s│┃]+", line) for line in result.stdout.splitlines()]
    for line in (["attack", "model", "n"], ["mi", "lite0", "6"], ["none", "lite0", "6"], ["pgd", "lite0", "6"]):
        assert line in cells


@pytest.mark.parametrize(
    "query",
    [
        "select * from prediction",
        "selct 1",
        "select nothing from predictions",
        "",
        "select 1/",
    ],
)
def test_sql_with_an_error_is_one_line(query: str, tiny_run: Finished) -> None:
    assert "sql" in complaint(invoke("sql", tiny_run.output, query))


@pytest.mark.parametrize(
    "query",
    [
        "with x as (copy (select 1) to '{file}') select 1",
        "copy images to '{file}'",
        "explain analyze copy (select 1) to '{file}'",
        "select * from read_csv('{file}')",
        "select * from read_text('{file}')",
        "select * from '{file}'",
        "select * from glob('{file}')",
        "select * from 'http://127.0.0.1:1/labels.csv'",
        "attach '{file}' as mine",
        "set enable_external_access = true",
        "select 1; set lock_configuration = false",
        "install httpfs",
        "select * from duckdb_secrets()",
        "select * from self",
        "select * from query",
    ],
)
def test_sql_reads_the_tables_and_nothing_else(query: str, tiny_run: Finished, tmp_path: Path) -> None:
    """No file, no address, no variable of this program; and it writes nothing."""
    file = tmp_path / "labels.csv"
    file.write_text("label\n1\n")
    assert "sql" in complaint(invoke("sql", tiny_run.output, query.format(file=file)))
    assert file.read_text() == "label\n1\n" and list(tmp_path.iterdir()) == [file]


def test_sql_joins_files_that_are_allowed_and_no_other(tiny_run: Finished, tmp_path: Path) -> None:
    mine, other = tmp_path / "it's mine.csv", tmp_path / "other.csv"
    image = rows(tiny_run.output, "images")[0]["image_id"]
    for file in (mine, other):
        file.write_text(f"image_id,kind\n{image},bird\n")
    quoted = str(mine).replace("'", "''")
    query = f"select kind, count(*) as n from predictions join '{quoted}' using (image_id) group by all"  # noqa: S608
    result = invoke("sql", tiny_run.output, query, "--allow-files", mine, "--format", "csv")
    assert result.stdout == f"kind,n\nbird,{3 * 2}\n"
    refused_too = f"select * from '{other}'"  # noqa: S608
    assert "other.csv" in complaint(invoke("sql", tiny_run.output, refused_too, "--allow-files", mine))
    said = complaint(invoke("sql", tiny_run.output, query, "--allow-files", tmp_path / "absent.csv"))
    assert "--allow-files" in said and "absent.csv" in said


@pytest.mark.parametrize(
    ("query", "answer"),
    [
        ("pivot (select 1 as a, 2 as b) on a using sum(b)", "1\n2\n"),
        ("select column_name from (describe images) limit 1", "column_name\nimage_id\n"),
        ("from images select count(*) as n", "n\n3\n"),
    ],
)
def test_sql_answers_whatever_is_a_question(query: str, answer: str, tiny_run: Finished) -> None:
    result = invoke("sql", tiny_run.output, query, "--format", "csv")
    assert (result.exit_code, result.stdout) == (0, answer)
    assert invoke("sql", tiny_run.output, f"explain {query}").exit_code == 0


def test_a_mistake_in_sql_is_not_blamed_on_a_part(tiny_run: Finished) -> None:
    said = complaint(invoke("sql", tiny_run.output, "select regexp_matches(image_id, '(') from images"))
    assert "missing )" in said and "verify" not in said


NESTED = """
select {'a': [1.5, 'inf'::double, 'nan'::double], 'b': 'x'::blob} as s, 'yz'::blob as b, map {'k': 'inf'::float} as m
"""


def test_sql_as_json_is_json_however_deep(tiny_run: Finished) -> None:
    def no_constant(name: str) -> None:
        raise AssertionError(name)

    text = invoke("sql", tiny_run.output, NESTED, "--format", "json").stdout
    (row,) = json.loads(text, parse_constant=no_constant)
    assert row == {"s": {"a": [1.5, None, None], "b": "eA=="}, "b": "eXo=", "m": {"k": None}}


def test_sql_as_csv_has_no_python_in_it(tiny_run: Finished) -> None:
    text = invoke("sql", tiny_run.output, NESTED, "--format", "csv").stdout
    (row,) = csv.DictReader(io.StringIO(text))
    assert json.loads(row["s"]) == {"a": [1.5, None, None], "b": "eA=="}
    assert (row["b"], json.loads(row["m"])) == ("eXo=", {"k": None})


def test_what_a_terminal_would_act_upon_is_spelled_out(tiny_run: Finished) -> None:
    result = invoke("sql", tiny_run.output, "select chr(27) || '[31mred' || chr(7) as \"w\x1b[1mord\"")
    assert "\\x1b[31mred\\x07" in result.stdout and "w\\x1b[1mord" in result.stdout
    assert not {"\x1b", "\x07"} & set(result.stdout)
    said = complaint(invoke("sql", "no\x1b[31mrun", "select 1"))
    assert "no\\x1b[31mrun" in said


def closed_pipe(*arguments: object) -> tuple[int, str]:
    """Exit code and stderr of the real command, whose output nobody reads."""
    process = subprocess.Popen([MEGALITH, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    _, said = process.communicate(timeout=300)
    return process.returncode, said.decode()


@pytest.mark.parametrize("form", ["table", "csv", "json"])
def test_sql_that_nobody_reads_ends_in_silence(form: str, tiny_run: Finished) -> None:
    assert closed_pipe("sql", tiny_run.output, "select * from predictions", "--format", form) == (128 + SIGPIPE, "")


def test_a_run_that_nobody_reads_is_not_begun(tmp_path: Path) -> None:
    code, said = closed_pipe("run", written(tmp_path, tiny()), "--output", tmp_path / "run")
    assert (code, len(said.splitlines())) == (1, 1) and "nobody reads the output" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("where", [">&-", ">&- 2>&-"])
def test_output_may_be_closed(where: str, tiny_run: Finished) -> None:
    line = f'"{MEGALITH}" sql "{tiny_run.output}" "select 1" {where}'
    done = subprocess.run(line, shell=True, capture_output=True, text=True, check=False)  # noqa: S602 - our own line
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_a_terminal_cannot_spell_is_a_question_mark(encoding: str, tiny_run: Finished) -> None:
    line = [str(MEGALITH), "sql", str(tiny_run.output), "select 'ü – 漢' as word", "--format", "csv"]
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run(line, env=environment, capture_output=True, check=False)
    letter = "ü" if encoding == "latin-1" else "?"
    assert (done.returncode, done.stdout.decode(encoding)) == (0, f"word\n{letter} ? ?\n")


def test_sql_of_what_is_no_run_directory(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        assert str(path) in complaint(invoke("sql", path, "select 1"))
    assert not (tmp_path / "absent").exists()


def test_sql_on_an_unfinished_run(tiny_run: Finished, tmp_path: Path) -> None:
    """Whenever a run is killed, what is there can be asked about; a file that is being written is passed over."""
    output = tiny_run.copy(tmp_path / "run")
    shutil.rmtree(output / "predictions")
    shutil.rmtree(output / "attacks" / "attack=mi")
    (output / "attacks" / "attack=pgd" / "chunk-00001.parquet").rename(
        output / "attacks" / "attack=pgd" / ".chunk-00001.parquet.0123456789abcdef.tmp"
    )
    counts = "select (select count(*) from images), (select count(*) from attacks), (select count(*) from predictions)"
    result = invoke("sql", output, counts, "--format", "csv")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[1] == "3,2,0"
    columns = "select attack, model, view, defense, correct, top5_labels from predictions"
    assert invoke("sql", output, columns, "--format", "csv").stdout == "attack,model,view,defense,correct,top5_labels\n"


def test_sql_on_a_damaged_part_is_one_line(tiny_run: Finished, tmp_path: Path) -> None:
    output = tiny_run.copy(tmp_path / "run")
    part = output / "images" / "chunk-00000.parquet"
    part.write_bytes(part.read_bytes()[:100])
    result = invoke("sql", output, "select * from images")
    assert result.exit_code in (1, 2)
    assert len(result.stderr.splitlines()) == 1
    assert "chunk-00000.parquet" in result.stderr


# --- run


def test_a_model_that_is_mostly_wrong_is_warned_about(tmp_path: Path) -> None:
    """Another model's head: the weights load, and every answer is off."""
    weights = torch.load(model_source("packaged/efficientnet-lite0").weights, weights_only=True)
    shuffled = {key: value.roll(1, dims=0) if value.shape[:1] == (1000,) else value for key, value in weights.items()}
    torch.save(shuffled, tmp_path / "shifted.pth")
    models = {"shifted": {"source": "packaged/efficientnet-lite0", "weights": str(tmp_path / "shifted.pth")}}
    experiment = tiny(models=models, targets=["shifted"], attacks={}, defenses={}, images={**SAMPLES, "limit": 8})
    result = run(written(tmp_path, experiment), tmp_path / "run")
    (warning,) = [line for line in result.stderr.splitlines() if line.startswith("warning")]
    assert "shifted" in warning
    assert sum(row["correct"] for row in rows(tmp_path / "run", "predictions")) == 0


def test_what_a_run_prints(tiny_run: Finished) -> None:
    summary = tiny_run.summary
    for words in ("Clean accuracy", "Attack success", "Defences", f"sql {tiny_run.output} "):
        assert words in summary
    clean = [
        row["correct"] for row in rows(tiny_run.output, "predictions") if row["attack"] == row["defense"] == "none"
    ]
    assert f"lite0: {sum(clean)} of 3 clean images right" in summary


def test_a_run_without_defences_prints_no_table_of_them(tiny_run: Finished, tmp_path: Path) -> None:
    said = run(written(tmp_path, tiny(defenses={})), tiny_run.copy(tmp_path / "run")).stdout
    assert "Attack success" in said and "Defences" not in said
    assert "Behind defences" not in said


def test_a_model_that_no_attack_knows_has_no_table_of_defences(tiny_run: Finished, tmp_path: Path) -> None:
    changed = written(tmp_path, tiny(targets=["lite0", "lite1"]))
    said = run(changed, tiny_run.copy(tmp_path / "run")).stdout
    assert "Defences: accuracy of lite0" in said and "Defences: accuracy of lite1" not in said
    assert "Behind defences, lite1: open_run(…).success(), or megalith sql" in said
    assert "Behind defences" not in tiny_run.summary


def test_settings_change_the_experiment(tiny_run: Finished, tmp_path: Path) -> None:
    """--set, in the order given; the experiment's file stays as it is."""
    before = tiny_run.experiment.read_bytes()
    attacks = "attacks={pgd: {recipe: pgd, surrogates: [lite0], eps: 4/255, steps: 1}}"
    changes = ["images.limit=2", attacks, "defenses={}", "images.limit=1"]
    run(tiny_run.experiment, tmp_path / "run", *(f"--set={each}" for each in changes))
    (row,) = [each for each in rows(tmp_path / "run", "predictions") if each["attack"] == "none"]
    (same,) = [
        each
        for each in rows(tiny_run.output, "predictions")
        if each["image_id"] == row["image_id"] and each["attack"] == each["defense"] == "none"
    ]
    assert row == same
    assert tiny_run.experiment.read_bytes() == before


def test_a_full_disk_stops_the_run_with_one_line(tiny_run: Finished, tmp_path: Path) -> None:
    """The run ends with 1 and can go on; here the disk takes the first attacked canvases, and no more."""
    program = """
import errno, sys
from pipeline.main import main
from pipeline.results.formats import FORMS
from pipeline.results.outcomes import DENOMINATORS, KEYS, METRICS
from tests.support.made import answers, made_run, two_models
from transforms.storage import store

write = store._write

def full(path, content, *, lasting):
    if "/attacks/" not in str(path):
        return write(path, content, lasting=lasting)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content[: len(content) // 2])
    raise OSError(errno.ENOSPC, "No space left on device", str(path))

store._write = full
main()
"""
    output = tmp_path / "run"
    arguments = ["run", tiny_run.experiment, "--output", output]
    process = start(tmp_path / "log", *arguments, program=program)
    assert process.wait() == 1
    assert "Traceback" not in process.stderr
    said = process.stderr.splitlines()[-1]
    assert said.startswith("megalith: ") and "No space left on device" in said
    assert count_by_table(stamps(output))["attacks"] == 0
    run(tiny_run.experiment, output)
    assert contents(output) == contents(tiny_run.output)
    assert [path for path in everything(output) if path.endswith(".tmp")] == []


def test_json_has_neither_infinities_nor_bytes(tiny_run: Finished) -> None:
    query = "select 'inf'::double as far, null as nothing, '\\x89P'::blob as canvas"
    answer = invoke("sql", tiny_run.output, query, "--format", "json")
    assert json.loads(answer.stdout) == [{"far": None, "nothing": None, "canvas": "iVA="}]
    assert "a, a" in complaint(invoke("sql", tiny_run.output, "select 1 as a, 2 as a", "--format", "json"))


def test_a_checkpoint_that_is_none_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(b"no weights")
    ours = {"source": "packaged/efficientnet-lite0", "weights": str(tmp_path / "weights.pth")}
    experiment = written(tmp_path, tiny(models={"lite0": ours}))
    assert "does not hold the weights" in refused(experiment, tmp_path / "output")
    assert not (tmp_path / "output").exists()


# --- numbers


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run made by hand: models m and n, attacks pgd and aim."""
    return two_models(tmp_path_factory.mktemp("two"))


def _csv(*arguments: object) -> list[dict[str, str]]:
    result = invoke(*arguments, "--format", "csv")
    assert result.exit_code == 0, result.output
    return list(csv.DictReader(io.StringIO(result.stdout)))


def test_table_counts(two: Path) -> None:
    """Of the images that each model gets right when clean, as test_findings.py counts them."""
    found = {(row["attack"], row["model"]): (row["successes"], row["of"]) for row in _csv("table", two)}
    assert found == {
        ("pgd", "m"): ("3", "4"),
        ("pgd", "n"): ("1", "4"),
        ("aim", "m"): ("2", "3"),
        ("aim", "n"): ("1", "3"),
    }
    chosen = ("--rows", "model", "--columns", "attack", "--metric", "accuracy", "--denominator", "clean-correct")
    (row, *others) = _csv("table", two, *chosen, "--attack", "pgd", "--model", "n", "--worst-case")
    assert (row["attack"], row["model"], row["successes"], row["of"], row["metric"]) == (
        "pgd",
        "n",
        "3",
        "4",
        "accuracy",
    )
    assert [(each["attack"], each["successes"]) for each in others] == [("worst case", "3")]


def test_compare_within_a_run_and_between_two(two: Path, tmp_path: Path) -> None:
    (row,) = _csv("compare", two, "--by", "model", "--attack", "pgd")
    assert (row["images"], row["one_only"], row["other_only"], row["p"]) == ("6", "1", "3", "0.625")
    flips = _csv("compare", two, "--by", "model", "--attack", "pgd", "--flips")
    assert [flip["image_id"] for flip in flips] == ["b", "c", "d", "e"]
    again = shutil.copytree(two, tmp_path / "again")
    assert {row["one_only"] + row["other_only"] for row in _csv("compare", two, again)} == {"00"}
    assert len(_csv("compare", two, again, "--by", "attack", "--metric", "margin")) == 3


def test_leaderboard_of_two_runs(two: Path, tmp_path: Path) -> None:
    board = json.loads(invoke("leaderboard", two, two, "--format", "json").stdout)
    worst = {row["entry"]: row["successes"] for row in board["rows"] if row["attack"] == "worst case"}
    assert worst == {"m": 0, "n": 2}
    other = two_models(tmp_path / "other", definitions={"canvas": {"resize": 232, "crop": 224}})
    said = complaint(invoke("leaderboard", two, other))
    assert "unlike canvas: 256/224 in " in said and said.endswith("or give --allow-unlike")
    assert (
        "Not comparable: unlike canvas"
        in invoke("leaderboard", two, other, "--allow-unlike", "--format", "html").stdout
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("table", "RUN", "--metric", "sucess"), "unknown metric 'sucess'; did you mean 'success'?"),
        (("table", "RUN", "--rows", "defense"), "attack: pgd, aim are not mixed; choose one with --attack"),
        (("table", "RUN", "--format", "latx"), "unknown format 'latx'; did you mean 'latex'?"),
        (("compare", "RUN"), "compare: give a second run directory, or --by to compare within one"),
        (("compare", "RUN", "--resion=x"), "unknown option '--resion'; did you mean '--region'?"),
        (("compare", "RUN", "--by", "modle"), "unknown key 'modle'; did you mean 'model'?"),
        (("leaderboard", "RUN", "no/such"), "'no/such' is not a run directory: it has no run.json"),
    ],
)
def test_numbers_that_cannot_be_had_are_one_line(arguments: tuple[str, ...], said: str, two: Path) -> None:
    assert complaint(invoke(*(str(two) if each == "RUN" else each for each in arguments))) == f"megalith: {said}"


def test_hostile_names_do_no_harm_in_any_format(tmp_path: Path) -> None:
    attack_, model, defense = "=1+1 it's <b>", "@m |x| \\input{y}", "-d\x1b[31m"
    made = [row for name in ("none", attack_) for row in answers([0, 5], attack=name, model=model)]
    made += answers([0, 0], attack=attack_, model=model, defense=defense)
    struck = [{"image_id": f"i{n}", "attack": attack_} for n in range(2)]
    folder = made_run(tmp_path / "run", made, struck)
    asked = ("--attack", attack_, "--model", model)
    forbidden = {"markdown": ("<b>", " |x|"), "html": ("<b>",), "latex": ("\\input",)}
    for form in FORMS:
        for line in (
            ("table", folder, "--rows", "defense", "--columns", "attack", *asked),
            ("compare", folder, "--by", "defense", *asked, "--flips"),
            ("leaderboard", folder, *asked, "--defense", defense),
        ):
            shown = invoke(*line, "--format", form).stdout
            assert "\x1b" not in shown
            assert [each for each in forbidden.get(form, ()) if each in shown] == []
            cells = [cell for row in csv.reader(io.StringIO(shown)) for cell in row] if form == "csv" else []
            assert [cell for cell in cells if cell.startswith(("=", "+", "@", "-d"))] == []
    assert "unknown attack" in complaint(invoke("table", folder, "--attack", "x' or 1=1 --"))


def test_help_names_every_metric_denominator_and_format() -> None:
    for command_, names in {"table": [*METRICS, *DENOMINATORS, *KEYS, *FORMS], "compare": [*METRICS, *KEYS]}.items():
        shown = " ".join(invoke(command_, "--help").stdout.split()).replace("- ", "-")
        assert [name for name in names if name not in shown] == []
