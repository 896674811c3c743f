"""Other projects' own test suites, taken from the source archives that they publish beside their wheels."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

# The archives of the versions in the lock file.
SHA256 = {
    "transformers": "19d647a4d5d903a7c644ca5cde2d86efc3dde7d8c687ae7988806ff2205efa71",
    "peft": "b803ccfb3f3f316004d850284306687833a2235ea278fb56abc856203456142e",
}

# Modules that the suites import and the archives lack, or that import what is not needed here.
STANDINS = {
    "transformers": {
        "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
        "generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
        "utils/test_configuration_utils.py": (
            "config_common_kwargs = {'return_dict': False, 'output_hidden_states': True,"
            " 'output_attentions': True, 'dtype': 'float16', 'chunk_size_feed_forward': 5,"
            " 'architectures': ['BertModel'],"
            " 'id2label': {0: 'label'}, 'label2id': {'label': '0'}, 'problem_type': 'regression'}\n"
        ),
    },
    "peft": {"../diffusers/__init__.py": "class StableDiffusionPipeline:\n    pass\n"},
}


PRELUDE = """import codex_ray.model
import peft.utils.constants

for table in vars(peft.utils.constants).values():  # what to adapt where a configuration does not say
    if isinstance(table, dict) and "llama" in table:
        table["codex_ray"] = table["llama"]
"""

# In place of a data set that lies on the Hub.
QUOTES = """

def load_dataset_english_quotes():
    from datasets import Dataset, DatasetDict

    quotes = [" ".join(f"word{word}" for word in range(first, first + 30)) for first in range(64)]
    return DatasetDict({"train": Dataset.from_dict({"quote": quotes})})
"""


def unpacked_suite(name: str, cache: Path) -> Path:
    """Return a folder to import ``NAME_suite`` from, downloaded once per version.

    Raises:
        AssertionError: the archive is another one than was looked at when this was written.
    """
    root = cache / f"{name}-{version(name)}"
    if root.is_dir():
        return root
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as staging:
        made = Path(staging) / "made"
        package = made / f"{name}_suite"
        with tarfile.open(_download(name, Path(staging))) as archive:
            archive.extractall(made, filter="data")
        next(made.glob(f"{name}-*/tests")).rename(package)
        for place, text in {"__init__.py": "", **STANDINS[name]}.items():
            path = package / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            (path.parent / "__init__.py").touch()
        made.rename(root)
    return root


def give_model(suite: Path, constants: list[str], model: Path) -> None:
    """Put one model folder in place of the lists of Hub models that a suite's file works through."""
    text = suite.read_text()
    for constant in constants:
        text, count = re.subn(
            rf"^{constant} = \[.*?^\]", f"{constant} = [{str(model)!r}]", text, flags=re.MULTILINE | re.DOTALL
        )
        assert count == 1, f"{suite} has no list {constant}"
    suite.with_name("cases_of_ours.py").write_text(PRELUDE + text + QUOTES)


def _download(name: str, folder: Path) -> Path:
    wanted = f"{name}=={version(name)}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation"]
    command += ["--no-binary", name, "--dest", str(folder), wanted]
    subprocess.run(command, check=True, timeout=300)
    archive = next(folder.glob("*.tar.gz"))
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert found == SHA256[name], f"the archive of {wanted} has SHA-256 {found}"
    return archive
