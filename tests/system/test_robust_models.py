"""Robust models in whole runs: one that is not what its name says, and one that is adversarially trained here."""

from pathlib import Path

import pytest
import torch
import torchvision

from pipeline.report.hygiene import CHECKS, FAILED, answered
from pipeline.results import open_run
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
