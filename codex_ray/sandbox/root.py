"""What sandboxed code sees of files: Python's own, those of chosen packages, and an empty folder to write in.

All is read-only but ``/tmp``, which lies in memory, is bounded in bytes and in files, and ends with the run.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

from codex_ray.sandbox import kernel
from codex_ray.sandbox.layers import SCRATCH

WORK = "/tmp"
MOST_FILES = 4096  # in the folder to write in
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
_NAME = re.compile(r"[\w.-]+")


def package_paths(names: Iterable[str]) -> list[str]:
    """Return the files and folders of installed distributions and of all that they need.

    Raises:
        LookupError: one is not installed.
    """
    asked = list(names)
    left, seen, paths = list(asked), set[str](), set[str]()
    while left:
        name = left.pop()
        if name.lower() in seen:
            continue
        seen.add(name.lower())
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            if name in asked:
                raise LookupError(f"the package {name} is not installed") from None
            continue  # needed on other systems alone
        for file in distribution.files or []:
            if file.parts[0] not in ("..", "__pycache__") and not file.parts[0].endswith(".dist-info"):
                paths.add(str(Path(str(distribution.locate_file(file.parts[0]))).resolve()))
        needed = [line for line in distribution.requires or [] if "extra ==" not in line]
        left += [found[0] for line in needed if (found := _NAME.match(line))]
    return sorted(path for path in paths if Path(path).exists())


def library_folders() -> list[str]:
    """Return the folders of the shared libraries that this process has loaded, Python's own aside."""
    mapped = re.findall(r"(/\S+\.so[.\d]*)$", Path("/proc/self/maps").read_text(), re.MULTILINE)
    own = tuple({sys.base_prefix + "/", sys.prefix + "/"} - {"//", "/usr/", "/usr/local/"})
    return sorted({str(Path(path).parent) for path in mapped if not path.startswith(own)})


def standard_library() -> list[str]:
    """Return the folders of Python's standard library."""
    return sorted({sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")} & set(sys.path)) or [
        str(Path(os.__file__).parent)
    ]


class Root:
    """The private root of a sandbox.

    Args:
        packages: files and folders of the packages that code may import.
    """

    def __init__(self, packages: Iterable[str]) -> None:
        self._library = [str(Path(path).resolve()) for path in standard_library()]
        inside = tuple(f"{path}/" for path in [*self._library, *packages])
        libraries = [path for path in library_folders() if not f"{path}/".startswith(inside)]
        self._packages = list(packages)
        self._shown = sorted({*self._library, *libraries})
        hidden = [f"{folder}/{name}" for folder in self._shown for name in ("site-packages", "dist-packages")]
        self._hidden = [path for path in hidden if Path(path).is_dir()]  # packages that are not asked for

    def enter(self, disk_bytes: int) -> None:
        """Make it in this process's own mount namespace, and go into it for good."""
        kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
        _empty(SCRATCH, "size=1m,nr_inodes=4000,mode=755")
        self._fill(beneath_work=False)
        for path in _DEVICES:
            _show(path, device=True)
        Path(SCRATCH + WORK).mkdir()
        Path(f"{SCRATCH}/dev/shm").symlink_to(WORK)
        # Devices can be written to all the same: what is written is no file of theirs.
        kernel.restrict_mount(SCRATCH, kernel.ATTR_RDONLY | kernel.ATTR_NOSUID)
        _empty(SCRATCH + WORK, f"size={disk_bytes},nr_inodes={MOST_FILES},mode=1777")
        self._fill(beneath_work=True)  # of a Python that is itself installed there
        kernel.change_root(SCRATCH)
        os.chdir(WORK)

    def _fill(self, *, beneath_work: bool) -> None:
        """Show what lies beneath the folder to write in, which would hide it, or all else."""

        def some(paths: Iterable[str]) -> list[str]:
            return [path for path in paths if path.startswith(f"{WORK}/") == beneath_work]

        for path in some(self._shown):
            _show(path)
        for path in some(self._hidden):
            _empty(SCRATCH + path, "size=1m,nr_inodes=4000,mode=755")
        for path in some(self._packages):
            _show(path)
        if beneath_work:  # where all else is read-only already
            for path in some([*self._shown, *self._hidden, *self._packages]):
                kernel.restrict_mount(SCRATCH + path, kernel.ATTR_RDONLY | kernel.ATTR_NOSUID)


def _empty(path: str, options: str) -> None:
    kernel.mount("tmpfs", path, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, options)


def _show(path: str, *, device: bool = False) -> None:
    target = Path(SCRATCH + path)
    target.parent.mkdir(parents=True, exist_ok=True)
    if Path(path).is_dir():
        target.mkdir(exist_ok=True)
    else:
        target.touch()
    kernel.mount(path, str(target), None, kernel.MS_BIND | kernel.MS_REC)
    if not device:
        kernel.restrict_mount(str(target), kernel.ATTR_NODEV)
