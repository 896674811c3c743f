"""``codex-ray serve keys``: adding, listing, revoking and rotating API keys, live."""

from __future__ import annotations

import time

from codex_ray.config.serve import ServeKeys
from codex_ray.errors import ConfigError
from codex_ray.serve.keys import SCOPES, Key, KeyFile


def keys_verb(settings: ServeKeys) -> None:
    """Change or show the file of API keys; running servers see it within a second.

    Raises:
        ConfigError: settings that cannot be right, or no such key.
        CodexRayError: the file is damaged or cannot be written.
    """
    file = KeyFile(settings.file)
    if settings.action == "list":
        _list(file)
        return
    if settings.name is None:
        raise ConfigError(
            f"`serve keys {settings.action}` needs a name: codex-ray serve keys {settings.action} NAME"
        )
    if settings.action == "revoke":
        key = file.revoke(settings.name)
        print(f"{key.name} ({key.id}) is revoked")
        return
    if settings.action == "rotate":
        key, text = file.rotate(settings.name)
    else:
        days = settings.expires_days
        key, text = file.add(
            settings.name,
            scopes=settings.scopes or list(SCOPES),
            requests_per_minute=settings.requests_per_minute,
            tokens_per_minute=settings.tokens_per_minute,
            expires=None if days is None else time.time() + days * 86_400,
        )
    print(text)
    print(f"# {key.name} in {file.path}; shown this once, kept as a hash")


def _list(file: KeyFile) -> None:
    keys = file.read()
    if not keys:
        print(f"{file.path} has no keys; codex-ray serve keys add NAME makes one")
    for key in keys.values():
        print(f"{key.id}  {key.name}  {','.join(key.scopes)}  {_budgets(key)}  {_until(key)}")


def _budgets(key: Key) -> str:
    budgets = {"requests": key.requests_per_minute, "tokens": key.tokens_per_minute}
    given = [f"{value:g} {what}/min" for what, value in budgets.items() if value is not None]
    return ", ".join(given) or "no budget"


def _until(key: Key) -> str:
    if key.expires is None:
        return "never expires"
    day = time.strftime("%Y-%m-%d", time.localtime(key.expires))
    return f"expired {day}" if key.expires < time.time() else f"expires {day}"
