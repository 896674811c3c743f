"""What to do about a recorded error, and how to ask somebody about it, without secrets."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from codex_ray import __version__
from codex_ray.errors import CodexRayError

LAST_LINES = 12
_PACKAGES = ("ray", "torch", "deepspeed", "transformers")

# Words of an error's type and message, in lower case, and what usually helps.
_REMEDIES = (
    (("out of memory", "outofmemory", "memoryerror", "cannot allocate"),
     "lower train.micro_batch_rows, take a higher deepspeed stage, or set train.recompute=layers"),
    (("no space left", "errno 28", "disk quota"), "free some space, then continue with resume=auto"),
    (("nccl", "gloo", "connection closed by peer", "connection reset", "rendezvous"),
     "look with codex-ray doctor whether the nodes meet; another worker's error may have come first"),
    (("cuda error", "cublas", "cudnn", "device-side assert"),
     "look at nvidia-smi and codex-ray doctor; run again with CUDA_LAUNCH_BLOCKING=1 to find the place"),
    (("modulenotfounderror", "importerror"), "see by codex-ray doctor whether all nodes have equal packages"),
    (("permission denied", "errno 13", "read-only file system"), "give folders that every node may write to"),
    (("actordied", "workercrashed", "sigkill", "nodedied"),
     "look at the node's memory and at dmesg: the kernel may have ended it; continue with resume=auto"),
)  # fmt: skip
_UNKNOWN = (
    "look at the traceback and at the logs in attempts/; the question beside this one is ready to be asked"
)


def remedy_of(error: BaseException) -> str:
    """Return what probably helps; our own errors end in it."""
    if isinstance(error, CodexRayError):
        _, _, remedy = str(error).rpartition("; ")
        return remedy
    words = f"{type(error).__name__} {error}".lower()
    return next((remedy for signs, remedy in _REMEDIES if any(sign in words for sign in signs)), _UNKNOWN)


def question_of(record: Mapping[str, Any]) -> str:
    """Return a text that a person or a model can be asked with; ``record`` is a line of errors.ndjson."""
    where = ", ".join(
        f"{key} {record[key]}" for key in ("role", "rank", "step", "phase") if record.get(key) is not None
    )
    packages = ", ".join(f"{name} {_version(name)}" for name in _PACKAGES)
    lines = str(record["traceback"]).strip().splitlines()[-LAST_LINES:]
    return "\n".join(
        [
            f"A run of codex_ray {__version__} failed ({where}).",
            f"Python {platform.python_version()} on {platform.system()} {platform.machine()}; {packages}.",
            "",
            f"{record['error']}: {record['message']}",
            "",
            *lines,
            "",
            f"What I would try: {record['remedy']}. What is the cause, and what else should I look at?",
        ]
    )


def without_secrets(text: str) -> str:
    """Return a text with keys, tokens and passwords masked."""
    from codex_ray.safety import redact
    from codex_ray.track.environment import masked

    text = redact(text, secrets="mask", personal="keep").text
    return "\n".join(" ".join(masked(word) for word in line.split(" ")) for line in text.split("\n"))


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"
