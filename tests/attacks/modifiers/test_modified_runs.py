"""Modified surrogates from the experiment to the tables, on a network that has what is modified."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.runs import Finished, invoke, refused, rows, run, sample_files, tiny, written

pytestmark = pytest.mark.system

PLAIN = {"recipe": "bim", "surrogates": ["lite0"], "eps": "4/255", "steps": 2}


def modified(modify: Any, **more: Any) -> dict[str, Any]:
    return {**PLAIN, "surrogates": [{"model": "lite0", "modify": modify}], **more}


def experiment(**attacks: Any) -> dict[str, Any]:
    return tiny(
        name="modified",
        images={"samples": "foolbox", "select": [file.stem for file in sample_files()[:2]]},
        models={"lite0": "packaged/efficientnet-lite0"},
        attacks=attacks,
        defenses={},
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("modified")
    attacks = {"plain": PLAIN, "sgm": modified("sgm"), "ghost": modified({"sgm": {"gamma": 0.5}, "ghost": None})}
    path = written(folder, experiment(**attacks))
    return Finished(path, folder / "run", run(path, folder / "run").stdout)


def test_other_gradients_make_other_canvases_at_the_same_cost(finished: Finished) -> None:
    made = rows(finished.output, "attacks")
    digests = {row["canvas_sha256"] for row in made}
    assert len(made) == len(digests) == 3 * 2
    assert {(row["forwards"], row["backwards"]) for row in made} == {(2, 2)}
    assert {tuple(row["surrogates"]) for row in made} == {("lite0",)}


def test_the_run_is_verified_and_its_answers_are_the_models_own(finished: Finished) -> None:
    """`verify` compares what the surrogate said in `attacks` with what the same model, as a target, predicts."""
    checked = invoke("verify", finished.output, "--sample", 1)
    assert checked.exit_code == 0, checked.output


def test_run_json_says_how_and_another_parameter_is_refused(finished: Finished, tmp_path: Path) -> None:
    defined = json.loads((finished.output / "run.json").read_text())["definitions"]["attacks"]
    assert defined["plain"]["surrogates"] == ["lite0"]
    assert defined["sgm"]["surrogates"] == [{"model": "lite0", "modify": {"sgm": {"gamma": "1/5"}}}]
    other = written(tmp_path, experiment(sgm=modified({"sgm": {"gamma": 0.3}})))
    said = refused(other, finished.output)
    assert "attacks.sgm.surrogates: " in said and '"1/5"' in said and '"3/10"' in said


def test_a_network_without_the_part_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    said = refused(written(tmp_path, experiment(pna=modified("pna"))), tmp_path / "run")
    wanted = "attacks.pna: surrogates.lite0.modify: pna changes self-attention, which this network does not have"
    assert wanted in said
    assert not (tmp_path / "run").exists()
