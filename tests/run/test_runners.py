"""Runner profiles: what they ask of Beam, and how what cannot work is refused. What their tests and images need."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import metadata, version
from pathlib import Path
from typing import Any

import grpc
import pytest
from apache_beam.options.pipeline_options import (
    DirectOptions,
    PipelineOptions,
    PortableOptions,
    StandardOptions,
)
from apache_beam.portability.api import beam_job_api_pb2 as api
from apache_beam.portability.api import beam_job_api_pb2_grpc as services

from pipeline.run.runners import check_paths, runner_options
from tests.support.runners import get, need
from tests.support.runs import ROOT, complaint, invoke, refused, tiny, written
from transforms.errors import InputError
from transforms.memory import SETTINGS


class Server(services.JobServiceServicer):
    """A job server that knows two options of its own, and runs nothing."""

    def DescribePipelineOptions(self, request: Any, context: Any) -> api.DescribePipelineOptionsResponse:  # noqa: N802
        return api.DescribePipelineOptionsResponse(
            options=[
                api.PipelineOptionDescriptor(name="max_bundle_size", type=api.PipelineOptionType.INTEGER),
                api.PipelineOptionDescriptor(name="object_reuse", type=api.PipelineOptionType.BOOLEAN),
                api.PipelineOptionDescriptor(name="runner", type=api.PipelineOptionType.STRING),
            ]
        )


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(1))
    services.add_JobServiceServicer_to_server(Server(), server)
    port = server.add_insecure_port("localhost:0")
    server.start()
    yield f"localhost:{port}"
    server.stop(0).wait()


def standard(options: PipelineOptions) -> str:
    return str(options.view_as(StandardOptions).runner)


def test_what_is_typed_wins() -> None:
    assert runner_options("prism", ["--job_server_timeout=7"]).view_as(PortableOptions).job_server_timeout == 7
    assert runner_options("direct", ["--direct_num_workers=5"]).view_as(DirectOptions).direct_num_workers == 5


def test_an_argument_too_many_is_not_repeated_where_it_may_be_a_secret(tmp_path: Path) -> None:
    """Options of Beam's that come before the experiment lose their values to it."""
    experiment = written(tmp_path, tiny())
    assert "too many arguments; give one experiment" in refused(experiment, tmp_path / "run", "two.yaml")
    said = complaint(invoke("plan", "--s3_secret_access_key", "of-a-test", experiment, "--output", tmp_path / "run"))
    assert "too many arguments" in said and "of-a-test" not in said


def test_prism_may_take_its_time() -> None:
    """Beam lets go of a job of Prism's after that many seconds, and its own default is five minutes."""
    assert runner_options("prism", []).view_as(PortableOptions).job_server_timeout > 30 * 24 * 3600


def test_a_job_server_s_options_are_known_too(endpoint: str) -> None:
    """With a value beside it, behind an equals sign, or none; and what is Beam's stays Beam's."""
    ours = [f"--job_endpoint={endpoint}", "--max_bundle_size", "4", "--object_reuse", "--parallelism=2"]
    assert standard(runner_options("flink", ours)) == "FlinkRunner"
    runner_options("flink", [f"--job_endpoint={endpoint}", "--max_bundle_size=4"])
    with pytest.raises(InputError, match=r"'--max_bundle_sze'; did you mean '--max_bundle_size'\?"):
        runner_options("flink", [f"--job_endpoint={endpoint}", "--max_bundle_sze=4"])
    with pytest.raises(InputError, match="'--max_bundle_size'"):
        runner_options("flink", ["--max_bundle_size=4"])


REFUSED = {
    "runner": (["--runner=flinc"], ["'flinc'", "did you mean 'flink'?"]),
    "nobody there": (["--runner=flink", "--job_endpoint=localhost:1"], ["--job_endpoint", "'localhost:1'"]),
    "no address": (["--runner=flink", "--job_endpoint=//"], ["--job_endpoint", "'//'"]),
    "no command": (["--runner=flink", "--environment_type=PROCESS"], ["--runner flink", "process_command"]),
    "Flink's version": (["--runner=flink", "--flink_version=1.7"], ["flink_version", "1.7"]),
    "option of Prism": (["--runner=prism", "--prism_locaton=x"], ["'--prism_locaton'", "'--prism_location'"]),
    "option of Dataflow": (["--runner=dataflow", "--regoin=x"], ["'--regoin'", "did you mean '--region'?"]),
    "a bucket that is none": (
        ["--runner=dataflow", "--temp_location=somewhere"],
        ["--runner dataflow", "temp_location"],
    ),
}


@pytest.mark.system
@pytest.mark.parametrize("wrong", REFUSED)
def test_what_cannot_work_is_refused_in_one_line(wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.run.runners._PATIENCE", 2.0)
    options, words = REFUSED[wrong]
    said = refused(written(tmp_path, tiny()), tmp_path / "run", *options)
    assert [word for word in words if word not in said] == [], said
    assert not (tmp_path / "run").exists()


def test_only_dataflow_s_workers_are_known_to_see_no_folder_of_ours() -> None:
    for runner in ("direct", "prism", "flink"):
        check_paths(runner, ["/mnt/shared/run"])
    check_paths("dataflow", ["gs://bucket/run", "gs://bucket/a.tar#bytes=1-2"])
    with pytest.raises(InputError, match="/mnt/shared/run"):
        check_paths("dataflow", ["gs://bucket/run", "/mnt/shared/run"])


def test_a_machine_without_java_skips_in_one_line_and_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"\Ajava and mvn not found on this machine\Z"):
        need("java", "mvn")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=r"\Ajava and mvn not found on this machine\Z"):
        need("java", "mvn")


@pytest.mark.parametrize("ci", [True, False])
def test_a_registry_that_does_not_answer_is_one_line(ci: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true" if ci else "")
    monkeypatch.setattr("tests.support.runners._PATIENCE", 1)
    given_up = pytest.fail.Exception if ci else pytest.skip.Exception
    with pytest.raises(given_up, match=r"\Ash: no route to the proxy\Z"):
        get(["sh", "-c", "echo 'go: downloading x'; echo 'no route to the proxy' >&2; echo more >&2; exit 1"])
    with pytest.raises(given_up, match=r"\Asleep: no answer within 1 seconds\Z"):
        get(["sleep", "9"])


def test_the_image_agrees_with_the_lock() -> None:
    """Python and Beam of workers are those of the machine that starts runs; the document names the same Beam."""
    dockerfile = (ROOT / "Dockerfile").read_text()
    chosen = dict(re.findall(r"^ARG (\w+)=(.+)$", dockerfile, flags=re.M))
    assert f"apache-beam=={chosen['BEAM']}" in (ROOT / "requirements.txt").read_text().splitlines()
    makefile = (ROOT / "Makefile").read_text()
    assert f"--python-version {chosen['PYTHON']} " in makefile
    (uv,) = re.findall(r"uv==\S+", dockerfile)
    assert uv in makefile.split()
    # Whatever an experiment may name runs on workers.
    workers = {*(metadata("megalith").get_all("Provides-Extra") or ())} - {"bench", "cli", "export", "test"}
    installs = re.findall(r"((?:--extra \w+ ?)+)", dockerfile)
    assert [{*re.findall(r"--extra (\w+)", each)} for each in installs] == [workers, workers]
    kept = {variable: str(value) for variable, (_, value) in SETTINGS.items()}
    assert kept == dict(re.findall(r"(MALLOC_\w+)=(\d+)", dockerfile))
    documented = re.findall(r"@v([\d.]+\d)", (ROOT / "docs" / "runners.md").read_text())
    assert {*documented} == {chosen["BEAM"]} == {version("apache-beam")}
