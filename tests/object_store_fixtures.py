"""Object stores on this machine, a fresh bucket per test: a pytest plugin, named by the modules that use it.

S3 is moto's server. GCS is fake-gcs-server, found in PATH or built with Go, behind a gate that also hands out tokens.
"""

import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any

import boto3
import pytest
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from moto.server import ThreadedMotoServer

from transforms.remote import forget_s3_clients

FAKE_GCS_SERVER = "github.com/fsouza/fake-gcs-server@v1.56.1"
S3_KEY, S3_SECRET, GS_TOKEN = "MEGALITHKEYID", "s3-secret-of-megalith", "gs-token-of-megalith"

_numbers = count()


@dataclass(frozen=True)
class Bucket:
    """A bucket, and a way to look into it that is not Beam's.

    Attributes:
        url: such as s3://bucket.
        options: what a user types after a command to be let in; with the environment of the tests.
        secrets: what nobody may see.
        put: writes an object.
        objects: all objects, by path below the bucket.
        stamps: of each object, what changes whenever it is written again, even with the same bytes.
    """

    url: str
    options: tuple[str, ...]
    secrets: tuple[str, ...]
    put: Callable[[str, bytes], object]
    objects: Callable[[], dict[str, bytes]]
    stamps: Callable[[], dict[str, str]]


@pytest.fixture(params=["s3", "gs"])
def bucket(request: pytest.FixtureRequest) -> Iterator[Bucket]:
    """A new bucket of each kind. Beam is told how to reach it, as the command's options would."""
    made: Bucket = request.getfixturevalue(f"{request.param}_bucket")
    yield made


@pytest.fixture
def s3_bucket(s3_endpoint: str) -> Iterator[Bucket]:
    """A new bucket in moto's S3, which keeps versions."""
    client = boto3.session.Session("x", "y").client("s3", endpoint_url=s3_endpoint, region_name="us-east-1")
    name = f"bucket-{next(_numbers)}"
    client.create_bucket(Bucket=name)
    client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})

    def versions() -> dict[str, str]:
        pages = client.get_paginator("list_object_versions").paginate(Bucket=name)
        return {
            each["Key"]: each["VersionId"] for page in pages for each in page.get("Versions", ()) if each["IsLatest"]
        }

    def objects() -> dict[str, bytes]:
        return {key: client.get_object(Bucket=name, Key=key)["Body"].read() for key in versions()}

    def put(key: str, content: bytes) -> object:
        return client.put_object(Bucket=name, Key=key, Body=content)

    options = (
        f"--s3_endpoint_url={s3_endpoint}",
        "--s3_region_name=us-east-1",
        f"--s3_access_key_id={S3_KEY}",
        f"--s3_secret_access_key={S3_SECRET}",
    )
    with _beam_told(options):
        yield Bucket(f"s3://{name}", options, (S3_KEY, S3_SECRET), put, objects, versions)


@pytest.fixture
def gs_bucket(gs_endpoint: "Gate") -> Iterator[Bucket]:
    """A new bucket in fake-gcs-server."""
    client = storage.Client(project="megalith", credentials=AnonymousCredentials())
    name = f"bucket-{next(_numbers)}"
    made = client.create_bucket(name)

    def objects() -> dict[str, bytes]:
        return {blob.name: blob.download_as_bytes() for blob in client.list_blobs(name)}

    def generations() -> dict[str, str]:
        return {blob.name: str(blob.generation) for blob in client.list_blobs(name)}

    def put(key: str, content: bytes) -> object:
        return made.blob(key).upload_from_string(content)

    with _beam_told(()):
        yield Bucket(f"gs://{name}", (), (GS_TOKEN, gs_endpoint.private_key), put, objects, generations)


@contextmanager
def _beam_told(options: tuple[str, ...]) -> Iterator[None]:
    """Beam's filesystems know these options inside, and none after."""
    FileSystems.set_options(PipelineOptions(list(options)))
    yield
    FileSystems.set_options(None)
    forget_s3_clients()


# --- servers


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """Where moto's S3 listens. Nothing of the user's own configuration of AWS is seen."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        for name in [each for each in os.environ if each.startswith("AWS_")]:
            patch.delenv(name)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def gs_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Gate"]:
    """The gate to fake-gcs-server, named by the environment, with a service account that it knows."""
    folder = tmp_path_factory.mktemp("gcs")
    port = _free_port()
    options = ["-scheme=http", "-host=127.0.0.1", f"-port={port}", "-backend=memory", "-log-level=error"]
    server = subprocess.Popen([_fake_gcs_server(folder), *options])
    _wait_for(port)
    gate = Gate(port)
    threading.Thread(target=gate.serve_forever, daemon=True).start()
    account = folder / "service-account.json"
    account.write_text(json.dumps(gate.service_account()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", gate.url)
        patch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(account))
        yield gate
    gate.shutdown()
    server.kill()
    server.wait()


def _fake_gcs_server(folder: Path) -> str:
    found = shutil.which("fake-gcs-server")
    if found is not None:
        return found
    go = shutil.which("go")
    if go is None:
        pytest.skip("needs fake-gcs-server, or Go to build it")
    built = subprocess.run(
        [go, "install", FAKE_GCS_SERVER],
        env={**os.environ, "GOBIN": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode:
        pytest.skip(f"{FAKE_GCS_SERVER} cannot be built: {built.stderr.splitlines()[-1:]}")
    return str(folder / "fake-gcs-server")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def _wait_for(port: int) -> None:
    for _ in range(300):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.1)
    raise AssertionError(f"nobody listens on port {port}")


class Gate(ThreadingHTTPServer):
    """Passes requests on to fake-gcs-server, and gives the tokens that a service account asks for.

    Google's client does not number the parts of a batch, which fake-gcs-server wants: they get numbers here.

    Attributes:
        tokens: whether tokens are given.
    """

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), partial(_Pass, port))
        self.tokens = True
        self.url = f"http://127.0.0.1:{self.server_port}"
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.private_key = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()

    def service_account(self) -> dict[str, str]:
        return {
            "type": "service_account",
            "project_id": "megalith",
            "private_key": self.private_key,
            "client_email": "tests@megalith.iam.gserviceaccount.com",
            "token_uri": f"{self.url}/token",
        }


class _Pass(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Gate

    def __init__(self, port: int, *arguments: Any) -> None:
        self._port = port
        super().__init__(*arguments)

    def log_message(self, *_: object) -> None: ...

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/token":
            token = {"access_token": GS_TOKEN, "expires_in": 3600} if self.server.tokens else {"error": "invalid_grant"}
            return self._answer(200 if self.server.tokens else 400, [], json.dumps(token).encode())
        connection = http.client.HTTPConnection("127.0.0.1", self._port)
        headers = {name: value for name, value in self.headers.items() if name != "Content-Length"}
        connection.request(self.command, self.path, _numbered(body) if "/batch" in self.path else body, headers)
        answer = connection.getresponse()
        kept = [each for each in answer.getheaders() if each[0] not in {"Content-Length", "Transfer-Encoding"}]
        return self._answer(answer.status, kept, answer.read())

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle  # noqa: N815 - what the library looks for


def _numbered(batch: bytes) -> bytes:
    heading = re.compile(rb"^Content-Type: application/http\r?\n", re.MULTILINE)
    numbers = count()
    return heading.sub(lambda found: found[0] + b"Content-ID: <%d>\n" % next(numbers), batch)
