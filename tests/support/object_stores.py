"""Object stores on this machine, a fresh bucket per test: a pytest plugin, named by the modules that use it.

S3 is moto's server, GCS is fake-gcs-server, built with Go. Before each stands a gate that counts requests, can be shut,
and hands out Google's tokens.
"""

import http.client
import json
import os
import re
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
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from moto.server import ThreadedMotoServer

from transforms.storage.object_stores import forget_s3_clients

if TYPE_CHECKING:
    from tests.support.runners import GoInstall


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
        gate: what all requests pass but those of the functions below.
        put: writes an object.
        objects: all objects, by path below the bucket.
        stamps: of each object, what changes whenever it is written again, even with the same bytes.
    """

    url: str
    options: tuple[str, ...]
    secrets: tuple[str, ...]
    gate: "Gate"
    put: Callable[[str, bytes], object]
    objects: Callable[[], dict[str, bytes]]
    stamps: Callable[[], dict[str, str]]


@pytest.fixture(params=["s3", "gs"])
def bucket(request: pytest.FixtureRequest) -> Iterator[Bucket]:
    """A new bucket of each kind. Beam is told how to reach it, as the command's options would."""
    made: Bucket = request.getfixturevalue(f"{request.param}_bucket")
    yield made
    made.gate.open()


@pytest.fixture
def s3_bucket(s3_endpoint: "Gate") -> Iterator[Bucket]:
    """A new bucket in moto's S3, which keeps versions."""
    client = boto3.session.Session("x", "y").client("s3", endpoint_url=s3_endpoint.inside, region_name="us-east-1")
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
        f"--s3_endpoint_url={s3_endpoint.url}",
        "--s3_region_name=us-east-1",
        f"--s3_access_key_id={S3_KEY}",
        f"--s3_secret_access_key={S3_SECRET}",
    )
    with _beam_told(options):
        yield Bucket(f"s3://{name}", options, (S3_KEY, S3_SECRET), s3_endpoint, put, objects, versions)


@pytest.fixture
def gs_bucket(gs_endpoint: "Gate") -> Iterator[Bucket]:
    """A new bucket in fake-gcs-server."""
    client = storage.Client(
        project="megalith", credentials=AnonymousCredentials(), client_options={"api_endpoint": gs_endpoint.inside}
    )
    name = f"bucket-{next(_numbers)}"
    made = client.create_bucket(name)

    def objects() -> dict[str, bytes]:
        return {blob.name: blob.download_as_bytes() for blob in client.list_blobs(name)}

    def generations() -> dict[str, str]:
        return {blob.name: str(blob.generation) for blob in client.list_blobs(name)}

    def put(key: str, content: bytes) -> object:
        return made.blob(key).upload_from_string(content)

    with _beam_told(()):
        secrets = (GS_TOKEN, gs_endpoint.private_key, *gs_endpoint.private_key.splitlines()[1:-1])
        yield Bucket(f"gs://{name}", (), secrets, gs_endpoint, put, objects, generations)


@contextmanager
def _beam_told(options: tuple[str, ...]) -> Iterator[None]:
    """Beam's filesystems know these options inside, and none after."""
    FileSystems.set_options(PipelineOptions(list(options)))
    yield
    FileSystems.set_options(None)
    forget_s3_clients()


# --- servers


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator["Gate"]:
    """The gate to moto's S3. Nothing of the user's own configuration of AWS is seen."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch, _gate(port) as gate:
        for name in [each for each in os.environ if each.startswith("AWS_")]:
            patch.delenv(name)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        yield gate
    server.stop()


@pytest.fixture(scope="session")
def gs_endpoint(tmp_path_factory: pytest.TempPathFactory, go_install: "GoInstall") -> Iterator["Gate"]:
    """The gate to fake-gcs-server, named by the environment, with a service account that it knows."""
    port = _free_port()
    options = ["-scheme=http", "-host=127.0.0.1", f"-port={port}", "-backend=memory", "-log-level=error"]
    server = subprocess.Popen([go_install(FAKE_GCS_SERVER), *options])
    _wait_for(port)
    with pytest.MonkeyPatch.context() as patch, _gate(port) as gate:
        account = tmp_path_factory.mktemp("gcs") / "service-account.json"
        account.write_text(json.dumps(gate.service_account()))
        patch.setenv("STORAGE_EMULATOR_HOST", gate.url)
        patch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(account))
        yield gate
    server.kill()
    server.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def _wait_for(port: int) -> None:
    for _ in range(300):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.1)
    raise AssertionError(f"nobody listens on port {port}")


@contextmanager
def _gate(port: int) -> Iterator["Gate"]:
    gate = Gate(port)
    threading.Thread(target=gate.serve_forever, daemon=True).start()
    yield gate
    gate.shutdown()


class Gate(ThreadingHTTPServer):
    """Passes requests on to a store, and gives the tokens that a service account of Google's asks for.

    Google's client does not number the parts of a batch, which fake-gcs-server wants: they get numbers here.

    Attributes:
        url: what clients are told.
        inside: the store itself.
        requests: method and path of each request that was passed on.
        shuts_at: where a path holds this, that request and all after it are not answered any more.
        is_shut: whether that has happened.
        forbids: where a path holds this, the request is refused.
        tokens: whether tokens are given.
    """

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), partial(_Pass, port))
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.inside = f"http://127.0.0.1:{port}"
        self.requests: list[str] = []
        self.shuts_at: str | None = None
        self.is_shut = False
        self.forbids: str | None = None
        self.tokens = True
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.private_key = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()

    def open(self) -> None:
        """Answers again, and has counted nothing."""
        self.shuts_at, self.is_shut, self.forbids = None, False, None
        self.requests.clear()

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
        gate = self.server
        gate.is_shut = gate.is_shut or (gate.shuts_at is not None and gate.shuts_at in self.path)
        if gate.is_shut:
            self.close_connection = True
        elif gate.forbids is not None and gate.forbids in self.path:
            self._answer(403, [], b"")
        elif self.path == "/token":
            token = {"access_token": GS_TOKEN, "expires_in": 3600} if gate.tokens else {"error": "invalid_grant"}
            self._answer(200 if gate.tokens else 400, [], json.dumps(token).encode())
        else:
            gate.requests.append(f"{self.command} {self.path}")
            self._pass_on(_numbered(body) if "/batch" in self.path else body)

    def _pass_on(self, body: bytes) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port)
        headers = {name: value for name, value in self.headers.items() if name != "Content-Length"}
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        kept = [each for each in answer.getheaders() if each[0] not in {"Content-Length", "Transfer-Encoding"}]
        length = answer.getheader("Content-Length")
        self._answer(answer.status, kept, answer.read(), length if self.command == "HEAD" else None)

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes, length: str | None = None) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", length or str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle  # noqa: N815 - what the library looks for


def _numbered(batch: bytes) -> bytes:
    heading = re.compile(rb"^Content-Type: application/http\r?\n", re.MULTILINE)
    numbers = count()
    return heading.sub(lambda found: found[0] + b"Content-ID: <%d>\n" % next(numbers), batch)
