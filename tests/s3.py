"""An S3 server on this machine, for tests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import boto3
import pytest
from moto.server import ThreadedMotoServer


@contextmanager
def s3_server(bucket: str, files: Mapping[str, bytes] | None = None) -> Iterator[str]:
    """Hold a bucket with these files; gives the query that an ``s3://`` address of it needs.

    The keys are in the environment, which Ray's workers inherit.
    """
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.delenv("AWS_ENDPOINT_URL", raising=False)
        client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1")
        client.create_bucket(Bucket=bucket)
        for key, data in (files or {}).items():
            client.put_object(Bucket=bucket, Key=key, Body=data)
        yield f"?endpoint_override={host}:{port}&scheme=http&region=us-east-1"
    server.stop()
