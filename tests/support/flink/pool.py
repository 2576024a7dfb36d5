"""Beam's worker pool, at one address of this machine instead of all, so that each TaskManager has its own beside it.

The first argument is the address; the others are those of `apache_beam.runners.worker.worker_pool_main`.
"""

import sys
from typing import Any

import grpc
from apache_beam.runners.worker import worker_pool_main

_any_server = grpc.server


def _server_at(address: str, *arguments: Any, **options: Any) -> grpc.Server:
    server = _any_server(*arguments, **options)
    bind = server.add_insecure_port
    server.add_insecure_port = lambda _: bind(address)
    return server


if __name__ == "__main__":
    grpc.server = lambda *arguments, **options: _server_at(sys.argv[1], *arguments, **options)
    worker_pool_main.main(sys.argv[2:])
