from __future__ import annotations

import functools
import gzip
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from codex_ray.corpus.sources import listing, storage
from codex_ray.corpus.sources.read import read_unit
from codex_ray.errors import CodexRayError, ConfigError
from tests.s3 import s3_server
from tests.unit.corpus.sources.forms import (
    account,
    as_jsonl,
    as_parquet,
    as_tar,
    as_zip,
    items,
    limits,
    put,
    source,
    units_of,
)

ROWS = [{"text": f"document {number}"} for number in range(20)]
FILES = {
    "text/a.txt": b"plain",
    "text/b/caf\xc3\xa9 %41 +.txt".encode("latin-1").decode(): b"odd name",
    "text/c.txt.gz": gzip.compress(b"packed"),
    "text/rows.jsonl": as_jsonl(ROWS),
    "text/rows.parquet": as_parquet(ROWS),
    "text/x.tar.gz": gzip.compress(as_tar(("m.txt", b"member"))),
    "text/x.zip": as_zip("m.txt", b"member"),
    "text/picture.png": b"x",
    "other/z.txt": b"elsewhere",
}


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The query of an S3 server on this machine that holds a bucket."""
    with s3_server("corpus", FILES) as query:
        yield query


def local_copy(folder: Path) -> Path:
    for key, data in FILES.items():
        put(folder / key, data)
    return folder


def test_a_bucket_gives_what_the_same_folder_gives(bucket: str, tmp_path: Path) -> None:
    local = source(local_copy(tmp_path) / "text")
    remote = source(f"s3://corpus/text{bucket}")
    whole = items(local)
    assert len(whole) == 45
    assert items(remote) == whole
    assert items(remote, unit_bytes=100) == whole
    assert [unit.name for unit in units_of(remote)] == [unit.name for unit in units_of(local)]
    assert all(unit.version and unit.size for unit in units_of(remote))


def test_files_and_globs_of_a_bucket(bucket: str) -> None:
    assert account(items(source(f"s3://corpus/text/a.txt{bucket}"))) == {"a.txt": "plain"}
    assert [unit.name for unit in units_of(source(f"s3://corpus/*/*.txt{bucket}"))] == [
        "other/z.txt",
        "text/a.txt",
    ]
    assert len(units_of(source(f"s3://corpus/**/*.txt{bucket}"))) == 3
    with pytest.raises(CodexRayError, match="s3://corpus/nothing does not exist; check the address"):
        units_of(source(f"s3://corpus/nothing{bucket}"))
    with pytest.raises(CodexRayError, match="s3://nobody"):
        units_of(source(f"s3://nobody/text{bucket}"))
    with pytest.raises(CodexRayError, match=r"none is wanted with format=csv"):
        units_of(source(f"s3://corpus/other{bucket}", format="csv"))


def test_the_endpoint_may_come_from_the_environment(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    host = bucket.partition("endpoint_override=")[2].partition("&")[0]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}")
    assert account(items(source("s3://corpus/other"))) == {"z.txt": "elsewhere"}


def test_an_object_that_vanishes_is_an_item(bucket: str) -> None:
    given = source(f"s3://corpus/text/rows.parquet{bucket}")
    (unit,) = units_of(given)
    gone = replace(unit, path=unit.path.replace("rows.parquet", "gone.parquet"))
    found = list(read_unit(gone, given, limits()))
    assert [item.name for item in found] == ["rows.parquet"]
    assert account(found)["rows.parquet"].startswith("cannot be read: ")


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A server that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(20)
        yield listener.getsockname()[1]


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.parametrize("scheme", ["s3", "http", "hf", "gs"])
def test_an_unreachable_store_is_one_sentence(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setattr(storage, "REQUEST_SECONDS", 2.0)
    monkeypatch.setattr(listing, "DEADLINE_SECONDS", 15.0)
    port = closed_port()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    addresses = {
        "s3": f"s3://bucket/x.txt?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1",
        "gs": f"gs://bucket/x.txt?endpoint_override=127.0.0.1:{port}&scheme=http&anonymous=true",
        "http": f"http://127.0.0.1:{port}/x.txt",
        "hf": "hf://datasets/user/name/x.txt",
    }
    storage._store.cache_clear()
    begun = time.monotonic()
    with pytest.raises(CodexRayError, match=rf"^{scheme}://.*check the address") as caught:
        units_of(source(addresses[scheme]))
    assert time.monotonic() - begun < 20
    assert "\n" not in str(caught.value)
    storage._store.cache_clear()


def test_a_store_that_never_answers_is_waited_for_until_the_deadline(
    silent_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "DEADLINE_SECONDS", 1.0)
    begun = time.monotonic()
    with pytest.raises(CodexRayError, match=r"did not answer in 1 s; check the address and the network"):
        units_of(source(f"http://127.0.0.1:{silent_port}/x.txt"))
    assert time.monotonic() - begun < 5


def test_a_store_that_dies_while_it_is_read_ends_the_run(tmp_path: Path) -> None:
    class Dead:
        closed = False

        def read(self, size: int | None) -> bytes:
            raise OSError("connection reset")

    with pytest.raises(CodexRayError, match=r"s3://b/x cannot be read \(connection reset\)"):
        storage.Opened(Dead(), "s3://b/x?region=r").read(5)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def test_files_of_a_web_server(tmp_path: Path) -> None:
    local_copy(tmp_path)
    handler = functools.partial(Quiet, directory=str(tmp_path))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{server.server_address[1]}/text"
    try:
        assert account(items(source(f"{base}/a.txt"))) == {"a.txt": "plain"}
        assert account(items(source(f"{base}/c.txt.gz?download=true"))) == {"c.txt.gz": "packed"}
        assert len(items(source(f"{base}/rows.jsonl"), unit_bytes=100)) == 20
        assert account(items(source(f"{base}/x.tar.gz"))) == {"x.tar.gz/m.txt": "member"}
        with pytest.raises(CodexRayError, match="does not exist"):
            units_of(source(f"{base}/no.txt"))
    finally:
        server.shutdown()
        server.server_close()


def test_addresses_that_cannot_be_right_are_refused() -> None:
    with pytest.raises(ConfigError, match="s3:// takes no regoin; it takes region, "):
        units_of(source("s3://bucket/x?regoin=eu"))
    with pytest.raises(ConfigError, match="holds credentials"):
        units_of(source("s3://key:secret@bucket/x"))
