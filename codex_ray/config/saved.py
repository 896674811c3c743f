"""Configuration files: reading what a person or a run wrote, and writing settings resolved.

Plain YAML with three departures, the same when reading and writing: ``4e-3`` is a number, dates are
text, and a key given twice is an error.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from codex_ray.config.fields import to_dict
from codex_ray.errors import ConfigError
from codex_ray.files import write_text

_FLOAT = re.compile(
    r"^[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:e[-+]?[0-9]+)?|\.[0-9][0-9_]*(?:e[-+]?[0-9]+)?|[0-9][0-9_]*e[-+]?[0-9]+"
    r"|\.inf|\.nan)$",
    re.IGNORECASE,
)
_FLOAT_TAG = "tag:yaml.org,2002:float"
_REPLACED_TAGS = (_FLOAT_TAG, "tag:yaml.org,2002:timestamp")


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key_node.value!r} is given twice", key_node.start_mark
                )
            seen.add(key_node.value)
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep=deep)
        return mapping


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # YAML folds Unicode's other line ends like newlines; only double quotes keep them.
    exact = any(sign in text for sign in "\x85\u2028\u2029\ufeff\r")
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if exact else None)


_Dumper.add_representer(str, _text)
for _class in (_Loader, _Dumper):
    _class.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in _REPLACED_TAGS]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    _class.add_implicit_resolver(_FLOAT_TAG, _FLOAT, list("-+0123456789."))


def read(path: Path) -> dict[str, Any]:
    """Read a configuration file as plain data.

    Raises:
        ConfigError: the file is missing, is not YAML, or is not a mapping.
    """
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        raise ConfigError(f"configuration file {path} does not exist; check its name") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration file {path} cannot be read ({error})") from error
    except (yaml.YAMLError, ValueError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" at line {where.line + 1}" if where else ""
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"configuration file {path} is not valid YAML{line}: {reason}") from error
    if data is None:
        return {}
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise ConfigError(
            f"configuration file {path} must hold `key: value` lines, not {type(data).__name__}"
        )
    return data


def dumps(settings: Any) -> str:
    """Return settings as YAML that :func:`read` gives back unchanged."""
    text: str = yaml.dump(to_dict(settings), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return text


def save(settings: Any, path: Path | str) -> None:
    """Write settings, every default resolved, as a file that ``--config`` reruns identically.

    Raises:
        CodexRayError: the file cannot be written.
    """
    write_text(Path(path), dumps(settings))
