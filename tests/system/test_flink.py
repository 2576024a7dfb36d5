"""A real Flink cluster with two TaskManagers makes the tables that this machine alone makes, bit for bit.

That holds where the processes agree on the library versions and on the kind of CPU, and each sums with one thread.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.flink.cluster import Cluster, running
from tests.support.preforked import wait_until
from tests.support.runners import Begin, GoInstall, beam_in_go, interrupt
from tests.support.runs import Finished, contents, invoke, run, what_was_counted

pytestmark = [pytest.mark.system, pytest.mark.alone]


@pytest.fixture(scope="module")
def cluster(flink_jars: Path, go_install: GoInstall, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    boot = go_install(beam_in_go("python/container"))
    with running(flink_jars, boot, tmp_path_factory.mktemp("flink")) as found:
        yield found
    assert found.all_workers() == [] and all(each.poll() is not None for each in found.processes.values())


def test_flink_makes_the_same_tables(cluster: Cluster, real_run: Finished, tmp_path: Path) -> None:
    result = invoke("run", real_run.experiment, "--output", tmp_path / "run", *cluster.options)
    assert result.exit_code == 0, result.output
    assert contents(tmp_path / "run") == contents(real_run.output)
    assert what_was_counted(tmp_path / "run") == what_was_counted(real_run.output)
    assert cluster.setbacks() == []


def test_killed_workers_and_a_killed_task_manager_change_nothing(
    cluster: Cluster, real_run: Finished, tmp_path: Path, begin: Begin
) -> None:
    """What they had finished is kept; the rest goes on elsewhere, and in what is started in their place."""
    output = tmp_path / "run"
    process = begin("run", real_run.experiment, "--output", output, *cluster.options)
    wait_until(lambda: any(output.glob("attacks/*/*.parquet")), process)
    cluster.kill_workers()
    wait_until(lambda: len(cluster.setbacks()) == 1, process)
    done = len(contents(output))
    wait_until(lambda: len(contents(output)) > done and bool(cluster.at_work()), process)
    lost = cluster.at_work()[0]
    cluster.kill_task_manager(lost)
    cluster.start_task_manager(lost)
    assert process.wait() == 0, (tmp_path / "log" / "stderr").read_text()
    assert cluster.setbacks()[0]["taskManagerId"] == lost
    assert contents(output) == contents(real_run.output)


def test_workers_of_worker_pools_may_be_killed_too(
    cluster: Cluster, real_run: Finished, tmp_path: Path, begin: Begin
) -> None:
    output = tmp_path / "run"
    process = begin("run", real_run.experiment, "--output", output, *cluster.pooled)
    wait_until(lambda: any(output.glob("attacks/*/*.parquet")), process)
    assert cluster.pools_at_work() == 2
    cluster.kill_workers()
    assert process.wait() == 0, (tmp_path / "log" / "stderr").read_text()
    assert len(cluster.setbacks()) == 1
    assert contents(output) == contents(real_run.output)


def test_ctrl_c_ends_the_command(cluster: Cluster, real_run: Finished, tmp_path: Path, begin: Begin) -> None:
    """Its job may go on: this job server is asked to cancel it, says that it does, and does not. That harms nothing."""
    output = tmp_path / "run"
    process = begin("run", real_run.experiment, "--output", output, *cluster.options)
    wait_until(lambda: any(output.glob("attacks/*/*.parquet")), process)
    interrupt(process)
    assert process.wait(60) == 130
    said = (tmp_path / "log" / "stderr").read_text().splitlines()[-1]
    assert said == "megalith: interrupted; what is finished is kept, the same command goes on"
    run(real_run.experiment, output)
    cluster.wait(lambda: cluster.last_job()["state"] in {"CANCELED", "FINISHED"} and not cluster.workers())
    assert contents(output) == contents(real_run.output)
