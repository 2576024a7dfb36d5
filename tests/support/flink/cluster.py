"""A Flink cluster on this machine: a JobManager, TaskManagers and Beam's job server, each a process of its own.

Each TaskManager starts the Python workers of its jobs by the `boot` of Beam's containers, or asks the worker pool
beside it to do so. (A pool that two share would not do: each numbers its workers from 1, and stopping its own it stops
the other's. Here both know one name, under which each finds its own, as it would on a machine of its own.)
"""

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from operator import itemgetter
from pathlib import Path
from urllib.request import urlopen

from tests.support.runs import ROOT, Json

_OPEN = ("lang", "lang.reflect", "io", "net", "nio", "text", "time", "util")
_OPEN_UTIL = ("util.concurrent", "util.concurrent.atomic", "util.concurrent.locks")
_JAVA = (
    "java",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    # What Flink's own scripts ask of Java 17.
    *(f"--add-opens=java.base/java.{package}=ALL-UNNAMED" for package in (*_OPEN, *_OPEN_UTIL)),
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-exports=java.base/sun.net.util=ALL-UNNAMED",
    "--add-exports=java.rmi/sun.rmi.registry=ALL-UNNAMED",
)
_JOB_MANAGER = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
_TASK_MANAGER = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
_JOB_SERVER = "org.apache.beam.runners.flink.FlinkJobServerDriver"
_POOL = "worker-pool"
_ADDRESSES = {"first": "127.0.0.2", "second": "127.0.0.3"}
"""Of each TaskManager's worker pool."""


class Cluster:
    """Two TaskManagers of one slot each, a worker pool beside each. What it writes, logs too, is under `folder`."""

    def __init__(self, jars: Path, boot: Path, folder: Path) -> None:
        self._jars = jars
        self._boot = boot
        self._folder = folder
        self._rest, self._rpc, self._jobs, self._artifacts, self._pools = free_ports(5)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def options(self) -> list[str]:
        """Of `megalith run`, so that TaskManagers start workers themselves."""
        return self._options("PROCESS", json.dumps({"command": str(self._worker())}))

    @property
    def pooled(self) -> list[str]:
        """Of `megalith run`, so that worker pools start them."""
        return self._options("EXTERNAL", f"{_POOL}:{self._pools}")

    def start(self) -> None:
        """Returns when both TaskManagers have reported and the job server answers."""
        (self._folder / "conf").mkdir(parents=True)
        (self._folder / "workers").mkdir()
        shutil.copy(Path(__file__).parent / "config.yaml", self._folder / "conf")
        self._java("jobmanager", _JOB_MANAGER, *self._configured(), "--executionMode", "cluster")
        for name, address in _ADDRESSES.items():
            self.start_task_manager(name)
            self._start_pool(name, address)
        ports = ["--job-port", self._jobs, "--artifact-port", self._artifacts, "--expansion-port", 0]
        master = ["--flink-master", f"localhost:{self._rest}", "--artifacts-dir", self._folder / "artifacts"]
        self._java("jobserver", _JOB_SERVER, "--job-host", "localhost", *ports, *master)
        pools = [(address, self._pools) for address in _ADDRESSES.values()]
        self.wait(lambda: self.task_managers() == 2 and all(map(_answers, [("localhost", self._jobs), *pools])))

    def start_task_manager(self, name: str) -> None:
        hosts = self._folder / f"{name}.hosts"
        hosts.write_text(f"127.0.0.1 localhost {socket.gethostname()}\n{_ADDRESSES[name]} {_POOL}\n")
        identity = ["-D", f"taskmanager.resource-id={name}"]
        self._java(name, _TASK_MANAGER, *self._configured(), *identity, system={"jdk.net.hosts.file": hosts})

    def _start_pool(self, name: str, address: str) -> None:
        program = [Path(__file__).parent / "pool.py", f"{address}:{self._pools}"]
        worker = [f"--service_port={self._pools}", f"--container_executable={self._worker()}"]
        self._begin(f"{name}-pool", [sys.executable, *program, *worker])

    def kill_workers(self) -> None:
        """As workers that are out of memory."""
        for boot in self.workers():
            _kill(boot)

    def kill_task_manager(self, name: str) -> None:
        """As Java that is out of memory. Its worker is told nothing, and goes on until it misses its master."""
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def task_managers(self) -> int:
        """How many the JobManager knows of."""
        with suppress(OSError):
            return len(self._ask("taskmanagers")["taskmanagers"])
        return 0

    def last_job(self) -> Json:
        """What the JobManager says of the job that began last."""
        overview = self._ask("jobs/overview")["jobs"]
        return self._ask(f"jobs/{max(overview, key=itemgetter('start-time'))['jid']}")

    def at_work(self) -> list[str]:
        """The TaskManagers that were dealt image chunks of the last job and are not done with them."""
        job = self.last_job()
        (vertex,) = (each["id"] for each in job["vertices"] if "Load" in each["name"])
        subtasks = self._ask(f"jobs/{job['jid']}/vertices/{vertex}")["subtasks"]
        working = [each for each in subtasks if each["status"] == "RUNNING" and each["metrics"]["read-records"]]
        return [each["taskmanager-id"] for each in working]

    def setbacks(self) -> list[Json]:
        """For what the last job was restarted: exceptions, and the TaskManagers that they came from."""
        found = self._ask(f"jobs/{self.last_job()['jid']}/exceptions")["exceptionHistory"]["entries"]
        return list(found)

    def workers(self) -> list[int]:
        """Process ids of the workers that TaskManagers and worker pools have now."""
        children = {child for process in self.processes.values() for child in _children(process.pid)}
        return [pid for pid in self.all_workers() if pid in children]

    def pools_at_work(self) -> int:
        """How many worker pools have workers."""
        return sum(bool(_children(self.processes[f"{name}-pool"].pid)) for name in _ADDRESSES)

    def all_workers(self) -> list[int]:
        """Those of TaskManagers that were killed, too."""
        return [int(each.name) for each in (self._folder / "workers").iterdir() if _runs(int(each.name))]

    def stop(self) -> None:
        """Leaves no process behind."""
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        # Until they are gone: a killed process is still there for a moment, and another may just have been started.
        deadline = time.monotonic() + 30
        while (left := self.all_workers()) and time.monotonic() < deadline:
            for boot in left:
                _kill(boot)
            time.sleep(0.1)

    def _options(self, environment: str, configuration: str) -> list[str]:
        return [
            "--runner=flink",
            f"--job_endpoint=localhost:{self._jobs}",
            f"--environment_type={environment}",
            f"--environment_config={configuration}",
            "--parallelism=2",
        ]

    def _worker(self) -> Path:
        """A program that starts a Python worker in this environment, and says so."""
        program = self._folder / "worker"
        if not program.exists():
            folder, binaries, root = map(shlex.quote, map(str, (self._folder, Path(sys.executable).parent, ROOT)))
            lines = [
                "#!/bin/sh",
                f"cd {folder} && touch workers/$$",
                f"export PATH={binaries}:$PATH PYTHONPATH={root}",
                "export RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT=1 OMP_NUM_THREADS=1",
                f'exec {shlex.quote(str(self._boot))} --semi_persist_dir="$PWD/staged-$$" "$@"',
            ]
            program.write_text("\n".join([*lines, ""]))
            program.chmod(0o755)
        return program

    def _ask(self, path: str) -> Json:
        with urlopen(f"http://localhost:{self._rest}/{path}", timeout=5) as answer:
            return dict(json.load(answer))

    def _configured(self) -> list[object]:
        ports = ["-D", f"rest.port={self._rest}", "-D", f"jobmanager.rpc.port={self._rpc}"]
        return ["--configDir", self._folder / "conf", *ports]

    def _java(self, name: str, main: str, *arguments: object, system: Mapping[str, object] | None = None) -> None:
        properties = [f"-D{key}={value}" for key, value in (system or {}).items()]
        self._begin(name, [*_JAVA, *properties, "-cp", f"{self._jars}/*", main, *arguments])

    def _begin(self, name: str, command: Iterable[object]) -> None:
        with (self._folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [*map(str, command)], cwd=self._folder, stdout=log, stderr=log, start_new_session=True
            )

    def wait(self, moment: Callable[[], bool]) -> None:
        """Returns when the moment has come, as long as nothing ends."""
        deadline = time.monotonic() + 180
        while not moment():
            ended = [name for name, process in self.processes.items() if process.poll() not in (None, 0, 143)]
            assert not ended, f"{ended}: see the logs in {self._folder}"
            assert time.monotonic() < deadline, f"nothing happens: see the logs in {self._folder}"
            time.sleep(0.2)


@contextmanager
def running(jars: Path, boot: Path, folder: Path) -> Iterator[Cluster]:
    """A cluster, for as long as the body runs."""
    cluster = Cluster(jars, boot, folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _kill(boot: int) -> None:
    """Kills a worker: the program that watches over it, which would start it anew, and then itself."""
    children = _children(boot)
    for pid in (boot, *children):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _answers(address: tuple[str, int]) -> bool:
    with suppress(OSError), socket.create_connection(address, timeout=1):
        return True
    return False


def _children(pid: int) -> list[int]:
    """Of any of a process's threads."""
    return [int(each) for path in Path(f"/proc/{pid}/task").glob("*/children") for each in path.read_text().split()]


def _runs(pid: int) -> bool:
    """Whether a process is there, and no zombie that nobody waits for."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
