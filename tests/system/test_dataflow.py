"""Up to Dataflow's door: the job is staged in an emulated bucket and read back; only its answer is missing."""

import json
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.internal import pickler
from apache_beam.options.pipeline_options import DebugOptions
from apache_beam.portability.api import beam_runner_api_pb2 as api

from pipeline.config.experiment import load_experiment
from pipeline.run.graph import build
from pipeline.run.plan import make_waves
from pipeline.run.prepare import prepare
from pipeline.run.runners import runner_options
from tests.support.object_stores import Bucket
from tests.support.runs import complaint, invoke, refused, sample_files, tiny, written
from transforms.steps.context import StepContext
from transforms.steps.held_models import HeldModels

pytestmark = pytest.mark.system

IMAGE = "us-docker.pkg.dev/project/repository/megalith:1"
GPU = "type:nvidia-tesla-t4;count:1;install-nvidia-driver"

STEPS = {
    "Load/Load chunk": "_LoadChunk",
    "Attack/Attack chunk": "AttackChunk",
    "Fan out to defences/Defence tasks": "CallableWrapperDoFn",
    "Transfer/Predict chunk": "_PredictChunk",
    "Write/Publish": "CallableWrapperDoFn",
}


def needed(bucket: Bucket) -> list[str]:
    """What Dataflow cannot do without."""
    places = [f"--{name}_location={bucket.url}/{name}" for name in ("temp", "staging")]
    return ["--project=some-project1", "--region=us-central1", *places]


@pytest.fixture
def staged(gs_bucket: Bucket, tmp_path: Path) -> dict[str, bytes]:
    """What Dataflow would find in the bucket."""
    options = runner_options(
        "dataflow",
        [
            *needed(gs_bucket),
            f"--template_location={gs_bucket.url}/job.json",
            f"--sdk_container_image={IMAGE}",
            f"--dataflow_service_options=worker_accelerator={GPU}",
            "--machine_type=n1-standard-4",
            "--max_num_workers=8",
        ],
    )
    prepared = prepare(load_experiment(str(written(tmp_path, tiny())), []), f"{gs_bucket.url}/run")
    experiment = prepared.experiment
    (wave,) = make_waves(experiment, prepared.plan.missing, None)
    models = HeldModels(prepared.pins, "cuda")
    context = StepContext(prepared.store, models, experiment.canvas.spec, prepared.conditions("cpu"))
    root = beam.Pipeline(options=options)
    build(root, experiment, context, wave.work(prepared.chunks), wave.targets, prepared.material)
    root.run()
    return gs_bucket.objects()


def test_the_staged_job(staged: dict[str, bytes]) -> None:
    """GPU, image, one process, one thread; nothing of the starting program's own memory."""
    job = json.loads(staged["job.json"])
    environment = job["environment"]
    (pool,) = environment["workerPools"]
    assert environment["serviceOptions"] == [f"worker_accelerator={GPU}"]
    assert [each["containerImage"] for each in pool["sdkHarnessContainerImages"]] == [IMAGE]
    assert pool["machineType"] == "n1-standard-4" and pool["autoscalingSettings"] == {"maxNumWorkers": 8}
    assert pool["numThreadsPerWorker"] == 1
    assert "no_use_multiple_sdk_containers" in environment["experiments"]
    assert "use_multiple_sdk_containers" not in environment["experiments"]
    assert environment["sdkPipelineOptions"]["options"]["save_main_session"] is False
    assert {path.rpartition("/")[2] for path in staged} == {
        "job.json",
        "pipeline.pb",
        "submission_environment_dependencies.txt",
    }


def test_the_staged_pipeline(staged: dict[str, bytes], tmp_path: Path) -> None:
    """The graph is whole, and workers can read its steps again: small, and without models."""
    (content,) = [content for path, content in staged.items() if path.endswith("/pipeline.pb")]
    components = api.Pipeline.FromString(content).components
    images = {api.DockerPayload.FromString(each.payload).container_image for each in components.environments.values()}
    assert images == {IMAGE}
    steps = {
        each.unique_name: each.spec
        for each in components.transforms.values()
        if each.spec.urn == "beam:transform:pardo:v1" and each.unique_name in STEPS
    }
    assert set(steps) == set(STEPS)
    for name, spec in steps.items():
        payload = api.ParDoPayload.FromString(spec.payload).do_fn.payload
        assert type(pickler.loads(payload)[0]).__name__ == STEPS[name]
    assert len(content) < 100_000


def test_what_is_typed_wins(gs_bucket: Bucket) -> None:
    """Experiments add up: what a user asks for comes beside ours."""
    options = runner_options(
        "dataflow",
        [
            *needed(gs_bucket),
            "--experiments=use_network_tags=net",
            "--number_of_worker_harness_threads=3",
        ],
    ).view_as(DebugOptions)
    assert options.experiments == ["no_use_multiple_sdk_containers", "use_network_tags=net"]
    assert options.number_of_worker_harness_threads == 3


def test_a_bucket_that_is_not_there_is_said_so_at_once(gs_bucket: Bucket, tmp_path: Path) -> None:
    said = refused(written(tmp_path, tiny()), tmp_path / "run", "--runner=dataflow", "--temp_location=gs://absent/temp")
    assert "--temp_location" in said and "absent" in said and "no such bucket" in said


def test_what_dataflow_cannot_do_without_is_asked_for(tmp_path: Path) -> None:
    said = refused(written(tmp_path, tiny()), tmp_path / "run", "--runner=dataflow")
    assert [word for word in ("project", "region", "temp_location") if word not in said] == []
    assert not (tmp_path / "run").exists()


def test_what_workers_cannot_see_is_refused(gs_bucket: Bucket, tmp_path: Path) -> None:
    """A run directory on this machine, and then images on this machine."""
    experiment = written(tmp_path, tiny())
    said = refused(experiment, tmp_path / "run", "--runner=dataflow", *needed(gs_bucket))
    assert str(tmp_path / "run") in said and "gs://" in said
    result = invoke("run", experiment, "--output", f"{gs_bucket.url}/run", "--runner=dataflow", *needed(gs_bucket))
    said = complaint(result)
    assert sample_files()[0].name in said and "gs://" in said
    assert not (tmp_path / "run").exists() and gs_bucket.objects() == {}
