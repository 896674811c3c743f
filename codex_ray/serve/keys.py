"""API keys: made once and shown once, kept as hashes in a file that can change while servers read it.

A key is ``crk-ID-SECRET`` with 256 random bits, so a plain SHA-256 of it cannot be searched back. It is
found by its ID, which is no secret, and compared in constant time.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.files import folder_lock, read_json, replacing, unwritable

SCOPES = ("generate", "embed", "metrics")
"""What a key may be for; every key may list models and count tokens."""

LOOK_SECONDS = 1.0
"""How often a server looks whether the file has changed."""

_NOBODY = hashlib.sha256(b"nobody").hexdigest()


@dataclass(frozen=True)
class Key:
    """What is kept of a key.

    Attributes:
        requests_per_minute, tokens_per_minute: its budgets; None is none.
        expires: seconds since 1970; None is never.
    """

    id: str
    name: str
    hash: str
    created: float
    scopes: list[str] = field(default_factory=lambda: list(SCOPES))
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    expires: float | None = None


def default_file() -> Path:
    """Where keys are unless a setting says otherwise."""
    return Path.home() / ".codex_ray" / "serve_keys.json"


class KeyFile:
    """The file of keys, for the commands that change it and for servers that read it."""

    def __init__(self, path: str | Path | None) -> None:
        self.path = Path(path).expanduser() if path else default_file()
        self.damaged = False  # when last looked at; then no key is known, and one is needed all the same
        self._keys: dict[str, Key] = {}
        self._stamp: tuple[int, ...] | None = None
        self._looked = 0.0

    def read(self) -> dict[str, Key]:
        """The keys by ID; none where there is no file.

        Raises:
            CodexRayError: the file is damaged.
        """
        if not self.path.exists():
            return {}
        found = read_json(self.path, "file of API keys")
        try:
            return {entry["id"]: Key(**entry) for entry in found["keys"]}
        except (KeyError, TypeError) as error:
            raise CodexRayError(
                f"file of API keys {self.path} is damaged ({error}); move it away and make new keys"
            ) from error

    def present(self) -> dict[str, Key]:
        """The keys as the file has them now, read again when it has changed; a damaged file has none."""
        now = time.monotonic()
        if now - self._looked >= LOOK_SECONDS or self._stamp is None:
            self._looked = now
            try:
                state = self.path.stat()
                stamp: tuple[int, ...] = (state.st_mtime_ns, state.st_ino, state.st_size)
            except OSError:
                stamp = (0,)
            if stamp != self._stamp:
                self._stamp = stamp
                try:
                    self._keys, self.damaged = self.read(), False
                except CodexRayError:
                    self._keys, self.damaged = {}, True
        return self._keys

    def find(self, text: str) -> Key | None:
        """The key that a client gave, if it is one and has not expired."""
        parts = text.split("-", 2)
        key = self.present().get(parts[1]) if len(parts) == 3 and parts[0] == "crk" else None
        same = hmac.compare_digest(_hash(text), key.hash if key is not None else _NOBODY)
        if key is None or not same or (key.expires is not None and key.expires < time.time()):
            return None
        return key

    def add(self, name: str, **settings: Any) -> tuple[Key, str]:
        """Make a key; returns it and its text, which is nowhere else."""
        with self._changing() as keys:
            if any(key.name == name for key in keys.values()):
                raise ConfigError(f"there is a key named {name!r} already; take another name, or rotate it")
            key, text = _made(name, settings)
            keys[key.id] = key
        return key, text

    def revoke(self, name: str) -> Key:
        """Take a key away."""
        with self._changing() as keys:
            key = self._named(keys, name)
            del keys[key.id]
        return key

    def rotate(self, name: str) -> tuple[Key, str]:
        """Give a key another text; the old one ends at once."""
        with self._changing() as keys:
            old = keys.pop(self._named(keys, name).id)
            fresh, text = _made(old.name, {})
            key = replace(old, id=fresh.id, hash=fresh.hash, created=fresh.created)
            keys[key.id] = key
        return key, text

    def _named(self, keys: dict[str, Key], name: str) -> Key:
        for key in keys.values():
            if name in (key.id, key.name):
                return key
        raise ConfigError(f"{self.path} has no key {name!r}; `codex-ray serve keys list` shows them")

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Key]]:
        """Read the keys, and write what the block made of them, alone."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise unwritable(self.path, error) from error
        with folder_lock(self.path.parent, "the folder of API keys"):
            keys = self.read()
            yield keys
            try:
                with replacing(self.path) as temporary:
                    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                    with os.fdopen(handle, "w") as stream:
                        json.dump({"keys": [asdict(key) for key in keys.values()]}, stream, indent=2)
                        stream.flush()
                        os.fsync(stream.fileno())
            except OSError as error:
                raise unwritable(self.path, error) from error


def _made(name: str, settings: dict[str, Any]) -> tuple[Key, str]:
    identity = secrets.token_hex(4)
    text = f"crk-{identity}-{secrets.token_urlsafe(32)}"
    return Key(identity, name, _hash(text), time.time(), **settings), text


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", errors="replace")).hexdigest()
