"""The common test suites of Transformers and PEFT, run on our decoder.

They come from the source archives of the versions in the lock file. What fails is compared with a list of
what cannot pass, and what Transformers' suite skips with a list of what may be skipped on a machine without
accelerators. (PEFT's skips combinations of its own methods that do not go together, of any model.)
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.outside.archives import give_model, unpacked_suite
from tests.unit.model.small import build

pytestmark = [pytest.mark.verify, pytest.mark.timeout(4 * 3600)]

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CACHE = Path(sys.prefix) / "outside"

# Why the suites may skip a test of theirs: hardware and kernels that are not here, parts that a decoder
# with one text input and dense feed-forward has not, and what they say of other families by name.
MAY_SKIP = re.compile(
    r"requires|not (a )?composite|No conversion found|prioritized|sequence-to-sequence|grouped_mm|subconfigs"
    r"|no sparse experts|output_router_logits|position embeddings|does not support SDPA|sliding window"
    r"|has no _keep_in_fp32_modules|test is slow|axial|vision"
    r"|image|audio|video|output_attentions|No decoder-only|partial"
)

# What cannot pass, with the reason.
CANNOT = {
    # It adds a state of one stream to what a layer passes on, which is N streams here.
    r"ShadowConfig",
    # It merges into a bias, which our matrices have not; the suite skips Llama and Gemma by name for that.
    r"test_merge_layers\w*\[BeftConfig",
}


def run_suite(folder: Path, arguments: list[str], results: Path) -> list[ElementTree.Element]:
    """Run pytest as the suite's own project would, and return the cases it reports."""
    (results / "pytest.ini").write_text("[pytest]\n")
    report = results / "report.xml"
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "2",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--disable-warnings"]
    command += ["-c", str(results / "pytest.ini"), f"--junit-xml={report}", "--timeout=600", *arguments]
    subprocess.run(command, cwd=results, env=environment, timeout=4 * 3600, check=False)
    return list(ElementTree.parse(report).getroot().iter("testcase"))


def check(cases: list[ElementTree.Element], at_least: int, may_skip: re.Pattern[str]) -> None:
    """Fail where a case failed, too few passed, or one was skipped for a reason of no list."""
    bad = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    bad = [case for case in bad if not any(re.search(pattern, str(case.get("name"))) for pattern in CANNOT)]
    skips = {
        case.get("name"): str(skipped.get("message"))
        for case in cases
        if (skipped := case.find("skipped")) is not None
    }
    assert not bad, [case.get("name") for case in bad]
    assert len(cases) - len(skips) >= at_least, f"only {len(cases) - len(skips)} passed"
    unknown = {name: reason for name, reason in skips.items() if not may_skip.search(reason)}
    assert not unknown, unknown


def test_transformers_common_suite(tmp_path: Path) -> None:
    folder = unpacked_suite("transformers", CACHE)
    cases = run_suite(folder, [str(HERE / "transformers_cases.py")], tmp_path)
    check(cases, 500, MAY_SKIP)


def test_peft_common_suite(tmp_path: Path) -> None:
    folder = unpacked_suite("peft", CACHE)
    # Matrices of at least 20 rows: the suite joins adapters to that rank.
    model = build("mhc", hidden_size=32, head_size=8, key_value_heads=4)
    model.resize_token_embeddings(1000)  # the suite's tokens
    model.save_pretrained(tmp_path / "codex-ray-mhc")
    words = Tokenizer(models.WordLevel({f"word{number}": number for number in range(1000)}, "word0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="word3", eos_token="word2")
    tokenizer.save_pretrained(tmp_path / "codex-ray-mhc")
    suite = folder / "peft_suite" / "test_decoder_models.py"
    lists = ["PEFT_DECODER_MODELS_TO_TEST", "SMALL_GRID_MODELS"]
    give_model(suite, lists, tmp_path / "codex-ray-mhc")
    cases = run_suite(folder, [str(suite.with_name("cases_of_ours.py")), "-k", "codex-ray-mhc"], tmp_path)
    check(cases, 1000, re.compile(""))
