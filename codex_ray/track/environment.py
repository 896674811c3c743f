"""environment.json: what a run ran on and with, so that its figures can be judged and repeated.

Secrets are never written: credentials in URIs are masked, and variables whose names look secret.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codex_ray.files import write_json, write_text

# Instructions that decide how fast a CPU multiplies in low precision.
CPU_FLAGS = (
    "avx2", "avx_vnni", "avx512f", "avx512_bf16", "avx512_fp16", "avx512_vnni", "amx_tile", "amx_bf16",
    "amx_fp16", "amx_int8", "asimd", "bf16", "i8mm", "sve", "sve2",
)  # fmt: skip
VARIABLES = (
    "RAY_ADDRESS", "MLFLOW_TRACKING_URI", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS",
    "PYTHONHASHSEED", "HF_HUB_OFFLINE",
)  # fmt: skip
COMMAND_SECONDS = 10.0
CHANGES = "changes.diff"
MOST_CHANGES = 2**20  # characters

_SECRET = re.compile(r"(keys?|token|secret|password|passwd|credentials?|auth|alerts[._]url)$", re.IGNORECASE)

# A mapping that holds the address of alerts: given for track.alerts, for track, or for what holds track.
_ALERTS = re.compile(r"([.+~]|^)(track(\.alerts)?=|[\w.+~]*=.*\btrack\b.*\balerts\b).*\burl\b", re.DOTALL)


def write_environment(
    folder: Path,
    settings: Mapping[str, Any],
    *,
    mlflow_uri: str | None,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write ``folder/environment.json`` and return what it holds.

    Args:
        folder: the run folder.
        settings: the resolved settings, from which every seed is taken.
        mlflow_uri: where MLflow really writes, None where it does not.
        extra: further facts of the caller, such as measured speeds or the cluster's nodes.

    Raises:
        CodexRayError: the folder cannot be written.
    """
    environment = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": [masked(word) for word in sys.argv],
        **environment_facts(settings),
        "torch": _torch(),
        "mlflow_uri": masked(mlflow_uri) if mlflow_uri else None,
        **(extra or {}),
    }
    commit = environment["commit"]
    if commit and commit["dirty"] and (changes := git_changes()):
        write_text(folder / CHANGES, changes)
        commit["changes"] = CHANGES
    write_json(folder / "environment.json", environment)
    return environment


def environment_facts(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run's figures depend on besides its settings, and the seeds among these."""
    return {
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "platform": {"system": platform.platform(), "host": platform.node(), "container": _container()},
        "commit": git_commit(),
        "code": code_fingerprint(),
        "cpu": _cpu(),
        "memory_bytes": memory_bytes(),
        "gpus": _gpus(),
        "seeds": _seeds(settings),
        "variables": _variables(),
        "packages": _packages(),
    }


def git_commit() -> dict[str, Any] | None:
    """Return the commit of the checkout this package runs from and whether files differ from it.

    None where the package is installed, or git is missing or does not answer in time.
    """
    checkout = _checkout()
    # An installed package may lie inside somebody else's checkout: it must be a file of this one.
    if (
        _output("git", "-C", str(checkout), "ls-files", "--error-unmatch", str(Path(__file__).resolve()))
        is None
    ):
        return None
    commit = _output("git", "-C", str(checkout), "rev-parse", "HEAD")
    changes = _output("git", "-C", str(checkout), "status", "--porcelain")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)} if commit else None


def _checkout() -> Path:
    return Path(__file__).resolve().parents[2]


def git_changes() -> str | None:
    """Return the checkout's differences from its commit as git prints them, secrets masked, at most 1 MiB.

    Files that git does not know are named in front.
    """
    differing = _output("git", "-C", str(_checkout()), "diff", "HEAD")
    unknown = _output("git", "-C", str(_checkout()), "ls-files", "--others", "--exclude-standard")
    if not differing and not unknown:
        return None
    from codex_ray.safety import redact

    text = (
        "".join(f"# not in git: {name}\n" for name in (unknown or "").splitlines()) + f"{differing or ''}\n"
    )
    text = text[:MOST_CHANGES]
    return redact(text, secrets="mask", personal="keep").text


def code_fingerprint() -> str:
    """Return a hash of this package's sources, which tells codes apart where there is no git."""
    package = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def masked(text: str) -> str:
    """Mask user, password and query values of a URI within ``text``, and the value of a secret setting."""
    setting = re.match(r"([\w.+~]+)=", text)
    if setting and (_SECRET.search(setting[1]) or _ALERTS.search(text)):
        return f"{setting[1]}=***"
    text = re.sub(r"(://)[^/\s]*@", r"\1***@", text)
    return re.sub(r"([?&][^=&\s]+=)[^&\s]*", r"\1***", text) if "://" in text else text


def nvidia_smi(*fields: str, seconds: float = COMMAND_SECONDS) -> list[dict[str, str]]:
    """Ask nvidia-smi for ``fields`` of each GPU; an empty list where there is none."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = ("nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits")
    lines = (_output(*query, seconds=seconds) or "").splitlines()
    return [dict(zip(fields, (cell.strip() for cell in line.split(",")), strict=False)) for line in lines]


def _output(*command: str, seconds: float = COMMAND_SECONDS) -> str | None:
    """Return what a command printed; None where it is missing, fails or takes too long."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _packages() -> dict[str, str]:
    found = {item.name: item.version for item in importlib.metadata.distributions() if item.name}
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def _cpu() -> dict[str, Any]:
    fields: dict[str, str] = {}
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").split("\n\n")[0].splitlines():
            key, _, value = line.partition(":")
            fields[key.strip().lower()] = value.strip()
    flags = set((fields.get("flags") or fields.get("features") or "").split())
    quota = _number_pair(Path("/sys/fs/cgroup/cpu.max"))
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "model": fields.get("model name") or platform.processor() or platform.machine(),
        "machine": platform.machine(),
        "flags": [flag for flag in CPU_FLAGS if flag in flags],
        "cores": os.cpu_count(),
        "cores_allowed": allowed,
        "cores_quota": quota[0] / quota[1] if quota else None,
    }


def _number_pair(path: Path) -> tuple[float, float] | None:
    """Read two numbers, as in a control group's ``cpu.max``; None where there is no limit."""
    try:
        words = path.read_text().split()
        return float(words[0]), float(words[1])
    except (OSError, ValueError, IndexError):
        return None


def memory_bytes() -> dict[str, int | None]:
    """Return this machine's memory, ``total``, and what the control group allows of it, ``limit``."""
    import psutil

    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
    except (OSError, ValueError):
        limit = None
    return {"total": psutil.virtual_memory().total, "limit": limit}


def _gpus() -> list[dict[str, str]]:
    return nvidia_smi("index", "name", "memory.total", "driver_version", "compute_cap", "mig.mode.current")


def _torch() -> dict[str, Any] | None:
    """Facts that only a loaded torch knows; it is not imported for them, and may be loading just now."""
    torch = sys.modules.get("torch")
    threads = getattr(torch, "get_num_threads", None)
    if torch is None or threads is None or not hasattr(torch, "version"):
        return None
    return {"version": torch.version.__version__, "cuda": torch.version.cuda, "threads": threads()}


def _container() -> str | None:
    """Name what seems to contain this process; a hint, not a proof."""
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        return "kubernetes"
    if Path("/run/.containerenv").exists():
        return "podman"
    return "docker" if Path("/.dockerenv").exists() else None


def _seeds(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    seeds: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            seeds.update(_seeds(value, f"{prefix}{key}."))
        elif key == "seed":
            seeds[f"{prefix}{key}"] = value
    return seeds


def _variables() -> dict[str, str]:
    names = [name for name in os.environ if name.startswith("CODEX_RAY_") or name in VARIABLES]
    return {name: "***" if _SECRET.search(name) else masked(os.environ[name]) for name in sorted(names)}
