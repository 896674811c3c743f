"""Where bytes are: local files, and s3://, gs://, hf:// and http(s):// through pyarrow and fsspec.

A local file that is missing, forbidden or on a failing disk is one item that cannot be read, and so is a
missing object. A store that stops answering, or refuses, ends the run instead: which documents a corpus
holds must not depend on the network or on when a key expired.
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from codex_ray.corpus.sources.reasons import UnreadableError
from codex_ray.errors import CodexRayError, ConfigError

Result = TypeVar("Result")

SCHEMES = ("s3", "gs", "hf", "http", "https")
BUFFER_BYTES = 2**20
CONNECT_SECONDS, REQUEST_SECONDS = 10.0, 30.0
OPTIONS = {
    "s3": ("region", "endpoint_override", "scheme", "anonymous"),
    "gs": ("endpoint_override", "scheme", "anonymous"),
}


class Opened:
    """A file open for reading; errors of its storage are told apart from damaged contents."""

    def __init__(self, stream: Any, path: str) -> None:
        self._stream = stream
        self._path = path
        self._remote = is_url(path)

    def read(self, size: int = -1, /) -> bytes:
        """Return at most ``size`` bytes (all of them when negative)."""
        return bytes(self._try(lambda: self._stream.read(None if size < 0 else size)))

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Go to another place."""
        self._try(lambda: self._stream.seek(offset, whence))
        return self.tell()

    def tell(self) -> int:
        """Return the place."""
        return int(self._stream.tell())

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def writable(self) -> bool:
        """Say that it cannot be written."""
        return False

    def seekable(self) -> bool:
        """Say whether it was opened for reading anywhere."""
        return bool(self._stream.seekable())

    @property
    def closed(self) -> bool:
        """Whether it is closed."""
        return bool(self._stream.closed)

    def close(self) -> None:
        """Close it."""
        self._stream.close()

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _try(self, action: Callable[[], Result]) -> Result:
        try:
            return action()
        except ValueError:  # a place before the beginning, which damaged contents asked for
            raise
        except Exception as error:
            if self._remote:
                raise unreachable(self._path, error) from error
            if isinstance(error, OSError):
                if error.errno == errno.EINVAL:  # the same, as the system says it
                    raise ValueError(error.strerror) from error
                raise UnreadableError(f"cannot be read: {error.strerror or error}") from error
            raise


def is_url(path: str) -> bool:
    """Say whether a path is an address rather than a local file.

    Raises:
        ConfigError: it is an address of an unknown kind.
    """
    scheme, found, _ = path.partition("://")
    if not found or "/" in scheme:
        return False
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise ConfigError(
            f"{path} cannot be read: {scheme}:// is none of {known}; give one of those or a path"
        )
    return True


def open_file(path: str, *, anywhere: bool) -> Opened:
    """Open a local file or an address for reading in order, or anywhere.

    Raises:
        UnreadableError: it is missing, or a local file that may not be read.
        CodexRayError: its store cannot be reached or refuses.
    """
    try:
        if not is_url(path):
            return Opened(Path(path).open("rb"), path)
        return Opened(_open_url(path, anywhere), path)
    except FileNotFoundError as error:
        raise UnreadableError("cannot be read: No such file or directory") from error
    except OSError as error:
        raise UnreadableError(f"cannot be read: {error.strerror or error}") from error


def _open_url(url: str, anywhere: bool) -> Any:
    try:
        store, where = store_of(url), key_of(url)
        if not url.startswith(("s3://", "gs://")):
            return store.open(where, "rb")
        if anywhere:  # without a buffer, each small read would be a request
            return io.BufferedReader(store.open_input_file(where), BUFFER_BYTES)
        # It would guess a compression by the name.
        return store.open_input_stream(where, compression=None, buffer_size=BUFFER_BYTES)
    except (CodexRayError, FileNotFoundError):
        raise
    except Exception as error:  # each library raises its own kinds
        raise unreachable(url, error) from error


def unreachable(path: str, error: Exception, verb: str = "read") -> CodexRayError:
    """Say that a store does not answer as it should when something is ``read`` or ``written``."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return CodexRayError(
        f"{shown(path)} cannot be {verb} ({lines[0][:200]}); check the address, the network and your rights"
    )


def store_of(url: str) -> Any:
    """Return the file system of an address; making it may ask the store where a bucket is."""
    scheme, netloc, query = parts_of(url)
    if scheme in ("s3", "gs"):
        return _store(scheme, netloc, query, _endpoint())
    return _store(scheme, "", "", "")


@lru_cache(maxsize=32)
def _store(scheme: str, bucket: str, query: str, endpoint: str) -> Any:
    """Return the file system of an address; ``endpoint`` is the environment's, for other S3 servers."""
    if scheme == "hf":
        from huggingface_hub import HfFileSystem

        return HfFileSystem(endpoint=os.environ.get("HF_ENDPOINT") or None)
    if scheme in ("http", "https"):
        import aiohttp
        import fsspec

        waits = aiohttp.ClientTimeout(total=None, connect=CONNECT_SECONDS, sock_read=REQUEST_SECONDS)
        return fsspec.filesystem(scheme, client_kwargs={"timeout": waits})
    from pyarrow import fs

    options: dict[str, Any] = dict(parse_qsl(query))
    unknown = sorted(set(options) - set(OPTIONS[scheme]))
    if unknown:
        raise ConfigError(f"{scheme}:// takes no {unknown[0]}; it takes {', '.join(OPTIONS[scheme])}")
    if "anonymous" in options:
        options["anonymous"] = options["anonymous"] == "true"
    if scheme == "gs":
        return fs.GcsFileSystem(retry_time_limit=timedelta(seconds=REQUEST_SECONDS), **options)
    given, separator, host = options.get("endpoint_override", endpoint).rpartition("://")
    if host:
        options["endpoint_override"] = host
        if separator:
            options.setdefault("scheme", given)
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if "region" not in options:
        options["region"] = region or ("us-east-1" if host else fs.resolve_s3_region(bucket))
    return fs.S3FileSystem(
        connect_timeout=CONNECT_SECONDS,
        request_timeout=REQUEST_SECONDS,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=3),
        **options,
    )


def _endpoint() -> str:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""


def parts_of(url: str) -> tuple[str, str, str]:
    """Return scheme, bucket or host, and query; credentials in an address would go into manifests."""
    parts = urlsplit(url, allow_fragments=False)
    if "@" in parts.netloc:
        raise ConfigError(
            f"the address of {parts.netloc.rpartition('@')[2]} holds credentials, which would be "
            "recorded; give them in the environment"
        )
    return parts.scheme, parts.netloc, parts.query


def key_of(url: str) -> str:
    """Return an address as its file system takes it: without the scheme and its query, or all of it."""
    scheme, rest = url.split("://", 1)
    if scheme in ("http", "https"):
        return url
    return unquote(rest.partition("?")[0]).rstrip("/")


def shown(path: str) -> str:
    """Return an address without its query."""
    return path.partition("?")[0]
