"""One quick question to an object store, before anything waits for it.

Beam is patient: where a name is wrong or the network is away it asks again for minutes. A run that has begun is worth
that, a typing error is not.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from transforms.errors import InputError, said_by
from transforms.storage.files import is_remote, remote
from transforms.storage.patience import within

_PATIENCE = 20.0
"""Seconds that an answer may take."""

_Question = Callable[[str, str, Any], object]
"""(bucket, prefix, Beam's options) -> anything, or an error."""


def reach(name: str, path: str) -> None:
    """Sees that the bucket of a remote path is there and that what is below the path may be listed.

    Where Beam's filesystems were told no options, they get the defaults: then the environment says how to connect.

    Args:
        name: what the user calls the path, as in `--output`.
        path: local ones pass.

    Raises:
        InputError: there is no such bucket, no credentials, no permission, no network, or no such filesystem.
    """
    if not is_remote(path):
        return
    scheme, stores = path.partition("://")[0], remote()
    options = stores.options()
    if not stores.speaks(path):
        lacks = f"is not installed; pip install 'megalith[{scheme}]'"
        reason = lacks if scheme in _QUESTIONS else "is not supported; give a local path, s3:// or gs://"
        raise InputError(f"{name}: {path!r}: {scheme}:// {reason}")
    if scheme in _QUESTIONS:
        bucket, _, prefix = path.removeprefix(f"{scheme}://").partition("/")
        if not bucket:
            raise InputError(f"{name}: {path!r} names no bucket; give {scheme}://BUCKET/FOLDER")
        try:
            within(_PATIENCE, partial(_QUESTIONS[scheme], bucket, prefix, options))
        except Exception as error:  # Whatever the client raises.
            stores.forget_s3_clients()
            raise InputError(f"{name}: {scheme}://{bucket}: {_meaning(error)}") from error


def _ask_s3(bucket: str, prefix: str, options: Any) -> object:
    from apache_beam.io.aws.clients.s3.boto3_client import Client  # noqa: PLC0415

    return Client(options).client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)


def _ask_gs(bucket: str, prefix: str, options: Any) -> object:
    import google.auth  # noqa: PLC0415
    from apache_beam.io.gcp.gcsio import create_storage_client  # noqa: PLC0415

    google.auth.default()  # Beam would look for credentials five times, and then go on without.
    client = create_storage_client(options)
    return list(client.list_blobs(bucket, prefix=prefix, max_results=1, retry=None, timeout=_PATIENCE))


_QUESTIONS: dict[str, _Question] = {"s3": _ask_s3, "gs": _ask_gs}

_MEANINGS = {
    "NoSuchBucket": "there is no such bucket",
    "NotFound": "there is no such bucket",
    "NoCredentialsError": "no credentials; give a profile, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "DefaultCredentialsError": "no credentials; gcloud auth application-default login gives some",
    "AssertionError": "the client for S3 is not installed; pip install 'megalith[s3]'",
    "Empty": f"no answer within {_PATIENCE:.0f} seconds; is the network there, and the endpoint right?",
}


def _meaning(error: Exception) -> str:
    """What an error of a client says to a user."""
    response = getattr(error, "response", None)  # of botocore, or of an HTTP library
    code = response["Error"]["Code"] if isinstance(response, dict) else type(error).__name__
    return _MEANINGS.get(code) or said_by(error)
