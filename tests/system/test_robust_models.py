"""Robust models in whole runs: one that is not what its name says, and one that is adversarially trained here."""

from pathlib import Path

import pytest
import torch
import torchvision

from pipeline.report.hygiene import CHECKS, FAILED, answered
from pipeline.results import open_run
from pipeline.results.leaderboards import leaderboard
from tests.support.convnet import save_as_robustness_does, train
from tests.support.runs import invoke, run, sample_files, tiny, written

pytestmark = pytest.mark.system


def test_a_model_far_below_what_was_published_of_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network of the name with random weights, where torch would have put the published ones."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    torch.manual_seed(0)
    state = torchvision.models.resnet50(weights=None).state_dict()
    torch.save({"state_dict": state}, tmp_path / "checkpoints" / "robustbench-Salman2020Do_R50.pt")
    experiment = tiny(
        images={"samples": "foolbox", "select": [file.stem for file in sample_files()[:12]]},
        models={"robust": {"source": "robustbench/Salman2020Do_R50", "engine": "torch"}},
        attacks={"sure": {"recipe": "autoattack", "surrogates": ["robust"], "eps": "4/255", "steps": 1, "queries": 1}},
        targets=["robust"],
        defenses=[],
    )
    said = run(written(tmp_path, experiment), tmp_path / "run").stderr
    assert "robust is right on 0 of 12 clean images, far below the published 64.0%" in said
    beside = " ".join(invoke("leaderboard", tmp_path / "run").stdout.split())
    assert "Published of robust: 64.0% clean, which ours is far below; 35.0% under AutoAttack" in beside
    assert "at 4/255 (L∞), which ours is far below." in beside
    made = open_run(str(tmp_path / "run"))
    published = [answered(made, each) for each in CHECKS if "published" in each.title]
    assert [each.status for each in published] == [FAILED, FAILED]
    assert [each.table.column("published") for each in published] == [[0.6402], [0.3496]]


def test_adversarial_training_withstands_what_turns_its_plain_twin(tmp_path: Path) -> None:
    """One network twice, trained on the 20 samples until it knows them all (24/255; 7 s of a CPU), and attacked at
    16/255 through checkpoints as the authors of robust networks save theirs."""
    made = {"plain": train(0, 40), "robust": train(24 / 255, 200)}
    models = {
        name: {"source": "convnet", "weights": str(save_as_robustness_does(network, tmp_path / f"{name}.pt"))}
        for name, network in made.items()
    }
    attacks = {f"on-{name}": {"recipe": "pgd", "surrogates": [name], "eps": "16/255", "steps": 20} for name in models}
    experiment = tiny(images={"samples": "foolbox"}, models=models, attacks=attacks, targets=[*models], defenses=[])
    said = run(written(tmp_path, experiment), tmp_path / "run").stdout
    assert "plain: 20 of 20 clean images right" in said and "robust: 20 of 20 clean images right" in said
    found = open_run(str(tmp_path / "run")).success().set_index(["attack", "model"])["successes"]
    plain, robust = found["on-plain", "plain"], found["on-robust", "robust"]
    assert plain >= 14 and robust <= 6, (plain, robust)
    assert [row[0] for row in leaderboard([open_run(str(tmp_path / "run"))]).cells] == ["robust", "plain"]
