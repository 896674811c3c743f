"""Checks of this machine: Python, packages, compilers, GPUs, memory, disk, token, sandbox, ports."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from pathlib import Path

from packaging.requirements import Requirement

from codex_ray.config.doctor import Doctor
from codex_ray.doctor.finding import FAILED, NOTE, OK, Finding, guarded
from codex_ray.errors import CodexRayError
from codex_ray.track.environment import memory_bytes, nvidia_smi
from codex_ray.track.progress import size

PYTHONS = ((3, 11), (3, 12), (3, 13))
GIBIBYTE = 2**30
CONNECT_SECONDS = 5.0
MAIN_PACKAGES = ("ray", "torch", "deepspeed", "transformers")
PORTS = {6379: "a Ray head", 8265: "Ray's dashboard", 8000: "`codex-ray serve`"}
_COMPILE_SECONDS = 60.0
_PROGRAM = "#include <Python.h>\n#include <vector>\nint main() { return (int)std::vector<int>(1).front(); }\n"
LAST_CLUSTER = Path("/tmp/ray/ray_current_cluster")  # where `ray start` leaves its address
SHARED_MEMORY = Path("/dev/shm")  # where Ray keeps objects on Linux
_SMALLEST_MEMORY = 2 * GIBIBYTE


def address_of(settings: Doctor) -> str | None:
    """Return the cluster to look at: the one given, RAY_ADDRESS, or one that `ray start` began here."""
    address = settings.address or os.environ.get("RAY_ADDRESS")
    if address or not LAST_CLUSTER.is_file():
        return address
    found = LAST_CLUSTER.read_text().strip()
    return None if silent(found) else found  # it may be of a cluster that has ended


def silent(address: str) -> str:
    """Return why nothing answers at a head's address, where Ray would try for minutes; empty if it does."""
    host, _, port = address.rpartition(":")
    if not port.isdigit() or "/" in host:
        return ""  # no address of a head: Ray has to say
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        return str(error)
    return ""


def machine_findings(settings: Doctor) -> list[Finding]:
    """Look at this machine; nothing is changed and no network is used."""
    checks = {
        "python": python,
        "packages": packages,
        "compilers": compilers,
        "gpus": gpus,
        "memory": memory,
        "disk": lambda: disk(Path(settings.folder), settings.least_free_bytes),
        "token": token,
        "sandbox": sandbox,
        "plugins": plugins,
    }
    return [guarded(name, check) for name, check in checks.items()]


def python(version: tuple[int, int] = (sys.version_info[0], sys.version_info[1])) -> Finding:
    """Whether this Python is one that codex_ray runs on."""
    found = f"{'.'.join(map(str, version))} on {sys.platform}"
    if version not in PYTHONS:
        return Finding(
            "python", FAILED, found, "install Python 3.11, 3.12 or 3.13 and run `make setup` with it"
        )
    if sys.platform != "linux":
        return Finding("python", NOTE, found, "only Linux is tested; training and the sandbox need it")
    return Finding("python", OK, found)


def packages() -> Finding:
    """Whether what codex_ray needs is installed, in versions that it may have."""
    wrong, versions = [], {}
    for requirement in requirements():
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        versions[requirement.name] = version
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version} is not {requirement.specifier}")
    if wrong:
        remedy = "run `make setup`, or install codex-ray again with pip"
        return Finding("packages", FAILED, "; ".join(wrong), remedy, versions)
    main = ", ".join(f"{name} {versions[name]}" for name in MAIN_PACKAGES)
    return Finding("packages", OK, f"{len(versions)} there; {main}", figures=versions)


def requirements() -> list[Requirement]:
    """Return what codex_ray needs to run: of its checkout, of the installed wheel, or else the main part.

    A node to which the code came with a job has neither.
    """
    project = Path(__file__).resolve().parents[2] / "pyproject.toml"
    if project.is_file():
        import tomllib

        texts = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"]
    else:
        try:
            texts = importlib.metadata.requires("codex-ray") or []
        except importlib.metadata.PackageNotFoundError:
            texts = list(MAIN_PACKAGES)
    found = [Requirement(text) for text in texts]
    return [one for one in found if one.marker is None or one.marker.evaluate({"extra": ""})]


def compilers() -> Finding:
    """Whether DeepSpeed could build its ops here: a C++ compiler with Python's headers, ninja, and nvcc."""
    compiler = os.environ.get("CXX") or next((name for name in ("c++", "g++") if shutil.which(name)), None)
    needed = "only DeepSpeed's built ops (offloading, NVMe) and train.compile need it"
    if compiler is None:
        return Finding(
            "compilers", NOTE, "no C++ compiler", f"install g++, ninja and Python's headers; {needed}"
        )
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "try.cc"
        source.write_text(_PROGRAM)
        include = f"-I{sysconfig.get_paths()['include']}"
        command = [compiler, "-c", include, str(source), "-o", f"{folder}/try.o"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_COMPILE_SECONDS)
            said = (done.stderr.strip().splitlines() or ["no message"])[0] if done.returncode else ""
        except (OSError, subprocess.TimeoutExpired) as error:
            said = str(error)
    if said:
        remedy = f"install g++ and Python's headers (apt install g++ python3-dev); {needed}"
        return Finding(
            "compilers", NOTE, f"{compiler} does not compile a program with Python.h: {said}", remedy
        )
    if shutil.which("ninja") is None:
        return Finding("compilers", NOTE, f"{compiler} works, ninja is missing", f"install ninja; {needed}")
    if nvidia_smi("name") and shutil.which("nvcc") is None:
        remedy = f"install the CUDA toolkit of PyTorch's CUDA version; {needed}"
        return Finding("compilers", NOTE, f"{compiler} and ninja work, nvcc is missing", remedy)
    return Finding("compilers", OK, f"{compiler} and ninja work")


def gpus() -> Finding:
    """Whether PyTorch sees the GPUs that the driver lists, and can compute on each."""
    listed = nvidia_smi("name", "memory.total", "driver_version")
    if not listed:
        return Finding("gpus", OK, "none; training runs on CPUs")
    import torch

    names = ", ".join(f"{gpu['name']} ({gpu['memory.total']} MiB)" for gpu in listed)
    driver = listed[0].get("driver_version", "unknown")
    if not torch.cuda.is_available():
        remedy = (
            "install PyTorch's CUDA build (`TORCH_INDEX_URL` of `make setup`) or a newer driver; "
            "in a container, give it the GPUs"
        )
        return Finding(
            "gpus", FAILED, f"{names}; PyTorch {torch.__version__} sees none (driver {driver})", remedy
        )
    seen = torch.cuda.device_count()
    for number in range(seen):
        torch.ones(64, 64, device=f"cuda:{number}").sum().item()
    if seen < len(listed) and "CUDA_VISIBLE_DEVICES" not in os.environ:
        return Finding(
            "gpus", FAILED, f"{names}; PyTorch sees {seen} of {len(listed)}", "look at `nvidia-smi`"
        )
    return Finding("gpus", OK, f"{names}; {seen} compute", figures={"gpus": seen})


def memory() -> Finding:
    """Whether there is memory left for Ray and a small model."""
    import psutil

    sizes = memory_bytes()
    limit = min(size for size in sizes.values() if size is not None)
    free = min(psutil.virtual_memory().available, limit)
    found = f"{size(free)} of {size(limit)} are free"
    figures = {"free_bytes": free, "limit_bytes": limit}
    if free < _SMALLEST_MEMORY:
        return Finding("memory", FAILED, found, "end other programs: Ray and one worker take 2 GiB", figures)
    return Finding("memory", OK, found, figures=figures)


def disk(folder: Path, least: int) -> Finding:
    """Whether a folder, Ray's temporary folder and the object store's shared memory can be written."""
    wanted = {folder.expanduser().absolute(): least, Path(tempfile.gettempdir()): least}
    if SHARED_MEMORY.is_dir():
        wanted[SHARED_MEMORY] = least // 4
    free, wrong = {}, []
    for place, bytes_wanted in wanted.items():
        there = next(one for one in (place, *place.parents) if one.is_dir())
        free[str(place)] = shutil.disk_usage(there).free
        try:
            with tempfile.TemporaryFile(dir=there) as stream:
                stream.write(b"codex_ray")
        except OSError as error:
            wrong.append(f"{place} cannot be written ({error.strerror})")
        if free[str(place)] < bytes_wanted:
            wrong.append(f"{place} has {size(free[str(place)])} free, {size(bytes_wanted)} are wanted")
    figures = {f"free_bytes {place}": count for place, count in free.items()}
    if wrong:
        remedy = "free some space, or give folder=FOLDER (TMPDIR is Ray's; /dev/shm is --shm-size)"
        return Finding("disk", FAILED, "; ".join(wrong), remedy, figures)
    sizes = ", ".join(f"{place} {size(count)}" for place, count in free.items())
    return Finding("disk", OK, f"free: {sizes}", figures=figures)


def token(variables: Mapping[str, str] | None = None) -> Finding:
    """Whether Ray asks for its token, and nobody else can read it."""
    variables = os.environ if variables is None else variables
    mode = variables.get("RAY_AUTH_MODE", "token")
    if mode != "token":
        remedy = "unset RAY_AUTH_MODE, or set it to token: whoever reaches a Ray port runs code otherwise"
        return Finding("token", FAILED, f"RAY_AUTH_MODE={mode}", remedy)
    if variables.get("RAY_AUTH_TOKEN"):
        return Finding("token", OK, "in RAY_AUTH_TOKEN")
    path = Path(variables.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if not path.is_file():
        if "RAY_AUTH_TOKEN_PATH" in variables:
            remedy = "copy the cluster's token file there, or unset RAY_AUTH_TOKEN_PATH"
            return Finding("token", FAILED, f"RAY_AUTH_TOKEN_PATH={path} is no file", remedy)
        return Finding("token", OK, "none yet; the first run makes one")
    mode_bits = path.stat().st_mode & 0o777
    if mode_bits & 0o077:
        return Finding("token", FAILED, f"{path} has mode {mode_bits:o}", f"run `chmod 600 {path}`")
    return Finding("token", OK, f"{path}, mode {mode_bits:o}")


def sandbox() -> Finding:
    """Whether code that models write can be contained on this host."""
    from codex_ray.sandbox.layers import LAYERS
    from codex_ray.sandbox.sandbox import Sandbox

    try:
        with Sandbox() as one:
            done = one.run("print(6 * 7)")
    except CodexRayError as error:
        found, _, remedy = str(error).partition("; ")
        return Finding("sandbox", NOTE, found, f"{remedy}; only searches, tools and code tasks need it")
    if not done.ok or done.stdout.strip() != "42":
        raise CodexRayError(f"a program in the sandbox came to {done}")
    return Finding("sandbox", OK, f"all layers: {', '.join(LAYERS)}")


def plugins() -> Finding:
    """Whether every component that other packages bring can be loaded."""
    from codex_ray.plugins import broken, brought
    from codex_ray.plugins.kinds import KINDS

    wrong = broken()
    if wrong:
        return Finding("plugins", FAILED, " · ".join(wrong.values()), "see docs/extending.md")
    found = [f"{name} ({kind})" for kind in KINDS for name in brought(kind)]
    return Finding("plugins", OK, ", ".join(found) or "none")


def ports(wanted: Mapping[int, str] | None = None) -> Finding:
    """Whether the ports that Ray and serving take by default are free on loopback."""
    wanted = PORTS if wanted is None else wanted
    taken = []
    for port, user in wanted.items():
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind(("127.0.0.1", port))
            except OSError:
                taken.append(f"{port} ({user})")
    if taken:
        remedy = (
            "end what listens there, or give others (`ray start --port`, `--dashboard-port`, serve port=N)"
        )
        return Finding("ports", NOTE, f"taken: {', '.join(taken)}", remedy, {"taken": taken})
    return Finding("ports", OK, f"free: {', '.join(map(str, wanted))}")
