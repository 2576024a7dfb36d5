"""The pipeline against a plain loop over the same numerics: no Beam, no store, no chunks."""

import hashlib
import io
import json
from pathlib import Path

import apache_beam as beam
import numpy as np
import pytest
import torch
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to
from PIL import Image

from pipeline.config.experiment import Experiment, load_experiment
from pipeline.images.manifest import list_images
from pipeline.run.graph import build
from pipeline.run.plan import make_waves
from pipeline.run.prepare import prepare
from tests.support.runs import Finished, Row, conditions_of, contents, count_by_table, in_order, rows, run, small
from transforms.attacks.engine import attack_batch
from transforms.data.classes import class_name
from transforms.data.decode import decode
from transforms.data.pixels import CanvasBatch
from transforms.defenses.defense import NO_DEFENSE
from transforms.models.answers import Answers, defend_batch, predict_batch
from transforms.models.engines.registry import FOLLOWED, PREDICTING, prepared
from transforms.models.sources.registry import model_source
from transforms.rows.attacks import attack_rows
from transforms.rows.parts import predictions_part
from transforms.rows.predictions import prediction_rows
from transforms.rows.tables import TABLES
from transforms.steps.context import StepContext
from transforms.steps.held_models import HeldModels

pytestmark = pytest.mark.system

CPU = torch.device("cpu")


class PlainLoop:
    """All rows of an experiment, made in memory, from all images at once and from the last to the first.

    So equality with the pipeline's tables shows as well that a row depends on no other image, nor on the order.
    """

    def __init__(self, experiment: Experiment) -> None:
        self.images: list[Row] = []
        self.attacks: list[Row] = []
        self.predictions: list[Row] = []
        self.canvases: dict[tuple[str, str], np.ndarray] = {}
        conditions = conditions_of(experiment)
        models = {name: model_source(each.source).load(CPU) for name, each in experiment.models.items()}
        predicting = {name: prepared(model, PREDICTING, "auto").classifier for name, model in models.items()}
        followed = {name: prepared(model, FOLLOWED, "auto").classifier for name, model in models.items()}
        batch = self._load(experiment)
        batches = {"none": batch}
        for spec in experiment.specs:
            surrogates = [followed[name] for name in spec.surrogates]
            attacked = attack_batch(spec, surrogates, batch, conditions)
            made = attack_rows(spec, experiment.seed, batch, attacked)
            unsaid = dict.fromkeys(TABLES["attacks"].columns.names)  # null, as where an attack has no band
            self.attacks += [{**unsaid, **row, "attack": spec.name} for row in made]
            targets = None if attacked.targets is None else tuple(attacked.targets.tolist())
            batches[spec.name] = CanvasBatch(batch.image_ids, batch.labels, attacked.canvases, targets)
        for attack, seen in batches.items():
            self.canvases |= {(attack, name): seen.pixels[place] for place, name in enumerate(seen.image_ids)}
            for defense in (NO_DEFENSE, *experiment.defenses):
                shown = [defend_batch(defense, seen, n, conditions) for n in range(defense.repeats)]
                for model in experiment.targets:
                    for view in experiment.views:
                        answers = Answers(seen.labels)
                        for pixels in shown:
                            answers.add(predict_batch(predicting[model], view, pixels, conditions))
                        everything = experiment.all_probabilities
                        made = prediction_rows(seen, answers.summed_up(), defense, all_probabilities=everything)
                        keys = {"attack": attack, "model": model, "view": view, "defense": defense.name}
                        self.predictions += [{**row, **keys} for row in made]

    def _load(self, experiment: Experiment) -> CanvasBatch:
        ids, labels, pixels = [], [], []
        for ref in reversed(list_images(experiment.images, experiment.seed).refs):
            data = Path(ref.uri).read_bytes()
            decoded = decode(data, experiment.canvas.spec)
            self.images.append(
                {
                    "image_id": ref.image_id,
                    "uri": ref.uri,
                    "label": ref.label,
                    "label_name": class_name(ref.label),
                    "width": decoded.width,
                    "height": decoded.height,
                    "bytes_sha256": hashlib.sha256(data).hexdigest(),
                    "labelled_by": None,
                }
            )
            ids.append(ref.image_id)
            labels.append(ref.label)
            pixels.append(decoded.canvas)
        return CanvasBatch(tuple(ids), tuple(labels), np.stack(pixels))


@pytest.fixture(scope="module", params=["small_run", pytest.param("real_run", marks=pytest.mark.system)])
def finished(request: pytest.FixtureRequest) -> Finished:
    """By models that cost next to nothing, and by real ones."""
    found: Finished = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def plain(finished: Finished) -> PlainLoop:
    return PlainLoop(load_experiment(str(finished.experiment)))


@pytest.mark.parametrize("table", ["images", "attacks", "predictions"])
def test_tables_equal_a_plain_loop_bit_for_bit(table: str, finished: Finished, plain: PlainLoop) -> None:
    assert len(list((finished.output / "images").iterdir())) == 3  # more than one chunk, the last one short
    stored = rows(finished.output, table)
    assert stored == in_order(getattr(plain, table))
    assert stored


def test_stored_canvases_are_what_the_plain_loop_attacked(finished: Finished, plain: PlainLoop) -> None:
    stored = rows(finished.output, "canvases")
    assert {(row["attack"], row["image_id"]) for row in stored} == set(plain.canvases)
    for row in stored:
        expected = plain.canvases[row["attack"], row["image_id"]]
        pixels = np.asarray(Image.open(io.BytesIO(row["canvas"])))
        assert pixels.dtype == np.uint8 and pixels.shape == (224, 224, 3)
        np.testing.assert_array_equal(pixels.transpose(2, 0, 1), expected)
        assert row["canvas_sha256"] == hashlib.sha256(expected.tobytes()).hexdigest()


def test_rows_are_counted_out_exactly(finished: Finished) -> None:
    images, attacks, models, views, defenses = 7, 3, 2, 1, 2
    found = rows(finished.output, "predictions")
    assert len(found) == images * (1 + attacks) * models * views * (1 + defenses)
    keys = {(row["image_id"], row["attack"], row["model"], row["view"], row["defense"]) for row in found}
    assert len(keys) == len(found)
    assert len(rows(finished.output, "attacks")) == images * attacks
    assert len(rows(finished.output, "canvases")) == images * (1 + attacks)
    assert len(rows(finished.output, "images")) == images
    assert rows(finished.output, "failures") == []


def test_attacks_attack(finished: Finished) -> None:
    """Equal tables could be equally empty of meaning: budgets are kept and spent, and the white-box attack works."""
    found = rows(finished.output, "attacks")
    for row in found:
        if row["norm"] == "linf":
            assert 3 / 255 < row["linf"] <= 4 / 255 + 1e-12
        else:
            # Rounding to whole grey levels inside the ball leaves some of the budget over.
            assert 2 < row["l2"] <= 3 + 1e-12
    fgsm = [row["success"] for row in found if row["attack"] == "fgsm"]
    assert sum(fgsm) >= 5
    assert {row["target"] for row in found if row["attack"] == "both"} == {649}
    assert {row["target"] for row in found if row["attack"] != "both"} == {None}


def test_parts_are_byte_identical_with_two_workers(finished: Finished, tmp_path: Path) -> None:
    run(finished.experiment, tmp_path / "run", "--direct_num_workers=2")
    assert contents(tmp_path / "run") == contents(finished.output)


def test_parts_are_byte_identical_with_workers_that_speak_by_grpc(small_run: Finished, tmp_path: Path) -> None:
    run(small_run.experiment, tmp_path / "run", "--direct_num_workers=2", "--direct_running_mode=multi_threading")
    assert contents(tmp_path / "run") == contents(small_run.output)


def test_parts_are_byte_identical_with_one_model_in_memory(small_run: Finished, tmp_path: Path) -> None:
    other = {**small()["attacks"]["fgsm"], "surrogates": ["lite1"]}
    attacks = {**small()["attacks"], "both": other}  # that one needs two models at once
    made = []
    for name, options in (("all", []), ("one", ["--models-in-memory=1"])):
        run(small_run.experiment, tmp_path / name, f"--set=attacks={json.dumps(attacks)}", *options)
        made.append(contents(tmp_path / name))
    assert made[0] == made[1]


def test_the_graph_alone_makes_the_same_parts(finished: Finished, tmp_path: Path) -> None:
    """`build` needs nothing of the command around it, and answers with the parts that were written."""
    attacks = {name: attack for name, attack in small()["attacks"].items() if name == "fgsm"}
    changes = [f"attacks={json.dumps(attacks)}", "defenses={}", "targets=[lite0]"]
    prepared = prepare(load_experiment(str(finished.experiment), changes), str(tmp_path / "run"))
    experiment = prepared.experiment
    models = HeldModels(prepared.pins, "cpu")
    context = StepContext(prepared.store, models, experiment.canvas.spec, prepared.conditions("cpu"))
    (wave,) = make_waves(prepared.experiment, prepared.plan.missing, None)
    options = PipelineOptions(["--runner=FnApiRunner", "--direct_num_workers=1"])
    with beam.Pipeline(options=options) as root:
        parts = build(root, experiment, context, wave.work(prepared.chunks), wave.targets, prepared.material)
        expected = [
            predictions_part(chunk, attack, "lite0", "center", "none")
            for chunk in range(3)
            for attack in ("none", "fgsm")
        ]
        assert_that(parts, equal_to(expected))
    made, known = contents(tmp_path / "run"), contents(finished.output)
    assert made == {path: known[path] for path in made}
    assert count_by_table(made) == {"images": 3, "canvases": 3 * 2, "attacks": 3, "predictions": 3 * 2}


def test_run_json_says_what_the_rows_were_made_from(finished: Finished) -> None:
    said = json.loads((finished.output / "run.json").read_text())
    assert said["experiment"]["seed"] == 7
    assert {"lite0", "lite1"} == set(said["definitions"]["models"])
    for model in said["definitions"]["models"].values():
        weights = model_source(model["source"]).weights.read_bytes()
        assert model["weights_sha256"] == hashlib.sha256(weights).hexdigest()
    assert {"python", "torch", "apache-beam"} <= set(said["versions"])
    assert said["definitions"]["attacks"]["both"]["steps"] == 2
    (cost,) = said["costs"]
    assert {key: cost[key] for key in ("load", "attack", "predict")} == {"load": 3, "attack": 9, "predict": 72}
