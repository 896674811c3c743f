"""Secrets and personal data: finding and masking them in whole texts and in streams."""

from codex_ray.safety.find import find
from codex_ray.safety.finding import PLACEHOLDERS, Finding, mask
from codex_ray.safety.redact import Redacted, redact
from codex_ray.safety.stream import StreamMask

__all__ = ["PLACEHOLDERS", "Finding", "Redacted", "StreamMask", "find", "mask", "redact"]
