"""Secrets and personal data: finding and masking them in texts and streams; attacks in prompts."""

from codex_ray.safety.find import find
from codex_ray.safety.finding import PLACEHOLDERS, Finding, mask
from codex_ray.safety.prompts import RISKY, Risk, prompt_risk
from codex_ray.safety.redact import Redacted, redact
from codex_ray.safety.stream import StreamMask

__all__ = [
    "PLACEHOLDERS",
    "RISKY",
    "Finding",
    "Redacted",
    "Risk",
    "StreamMask",
    "find",
    "mask",
    "prompt_risk",
    "redact",
]
