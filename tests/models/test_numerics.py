"""Numerics: exact runs repeat their bits; fast ones may have a GPU's quickest kernels, and say so."""

import json
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import nn

from pipeline.run.micro_batch import quickest
from pipeline.verify.replay import differences
from tests.support.runs import contents, refused, run, tiny, written
from transforms.errors import InputError
from transforms.models.classifier import Classifier, Preprocessing
from transforms.models.engines import compiled
from transforms.models.engines.registry import FOLLOWED, PREDICTING, prepared
from transforms.steps.process import prepare_numerics

Flags = tuple[bool, bool, bool, bool]


@pytest.mark.parametrize(
    ("numerics", "flags"), [("fast", (False, True, True, True)), ("exact", (True, False, False, False))]
)
def test_what_a_gpu_may_do(numerics: Literal["exact", "fast"], flags: Flags) -> None:
    prepare_numerics(numerics)
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    found = cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
    prepare_numerics()
    assert found == flags


@pytest.mark.parametrize(
    ("most", "bound", "best"),
    [
        (64, 1, 1),  # every image takes its own time: nothing is gained by more at once
        (64, 16, 16),  # up to 16 take no longer than one
        (64, 64, 64),
        (24, 64, 24),  # a chunk has no more
        (1, 64, 1),
    ],
)
def test_the_micro_batch_grows_as_long_as_it_gains(most: int, bound: int, best: int) -> None:
    assert quickest(lambda count: max(1.0, count / bound), most) == best


def test_the_micro_batch_ends_where_memory_does() -> None:
    def seconds(count: int) -> float:
        if count > 16:
            raise torch.OutOfMemoryError
        return 1.0

    assert quickest(seconds, 64) == 16


def small_network() -> Classifier:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
    return Classifier(nn.Sequential(*layers), Preprocessing(16, 16, "bilinear", (0, 0, 0), (1, 1, 1)))


def test_a_compiled_network_has_the_same_answers_and_gradients() -> None:
    """On a CPU, by the same compiler; whether a GPU's kernels agree is asked before they are chosen."""
    plain = small_network()
    other = Classifier(compiled.compiled(plain.network), plain.preprocessing)
    windows = torch.rand(4, 3, 16, 16)
    found = []
    for each in (plain, other):
        shown = windows.clone().requires_grad_()
        logits = each(shown)
        found.append((logits.detach(), torch.autograd.grad(logits[:, 3].sum(), shown)[0]))
    for one, another in zip(*found, strict=True):
        torch.testing.assert_close(one, another, rtol=1e-4, atol=1e-5)


def test_without_a_gpu_compiled_is_refused_and_never_chosen() -> None:
    for engines in (PREDICTING, FOLLOWED):
        with pytest.raises(InputError, match="compiled runs on a GPU, not on cpu; give torch"):
            prepared(small_network(), engines, "compiled")
        assert prepared(small_network(), engines, "auto", "fast").engine != "compiled"


def test_exact_numerics_do_not_choose_what_is_fast() -> None:
    """Whether there is a GPU or not: the engine is taken to run anything."""
    engines = {"compiled": lambda classifier: classifier, "torch": lambda classifier: classifier}
    assert prepared(small_network(), engines, "auto", "fast").engine == "compiled"
    assert prepared(small_network(), engines, "auto").engine == "torch"
    assert prepared(small_network(), engines, "compiled").engine == "compiled"


def test_a_fast_run_says_so_and_is_continued_by_no_other(tmp_path: Path) -> None:
    fast = written(tmp_path, tiny(numerics="fast"))
    run(fast, tmp_path / "run")
    defined = json.loads((tmp_path / "run" / "run.json").read_text())["definitions"]
    assert defined["numerics"] == "fast"
    assert defined["micro_batch"] in {1, 2}
    before = contents(tmp_path / "run")
    said = refused(written(tmp_path, tiny(), "exact.yaml"), tmp_path / "run")
    assert "numerics: " in said and '"fast"' in said and '"exact"' in said
    assert contents(tmp_path / "run") == before
    run(fast, tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "exact", "fast"),
    [
        ({}, [], []),
        ({"confidence": 0.41}, ["confidence"], []),  # TF32 has ten bits
        ({"confidence": 0.43}, ["confidence"], ["confidence"]),
        ({"predicted": 2, "correct": False}, ["predicted", "correct"], []),
    ],
)
def test_what_verify_lets_pass_where_the_first_two_classes_are_nearly_tied(
    changes: dict[str, object], exact: list[str], fast: list[str]
) -> None:
    confidences = {"confidence": 0.4, "label_confidence": 0.4, "target_confidence": None, "agreement": None}
    choices = {"predicted": 1, "correct": True, "abstained": None, "label_confidence_std": None}
    row = {**confidences, **choices, "top5_confidences": [0.4, 0.39, 0.1, 0.01, 0.01]}
    assert differences({**row, **changes}, row, "exact") == exact
    assert differences({**row, **changes}, row, "fast") == fast
    clear = {**row, "top5_confidences": [0.4, 0.3, 0.1, 0.01, 0.01]}
    if "predicted" in changes:
        assert differences({**clear, **changes}, clear, "fast") == exact
