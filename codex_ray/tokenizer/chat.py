"""Chat templates: how messages become the text that a model reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from codex_ray.errors import ConfigError

TEMPLATE_FILE = "chat_template.jinja"
CHATML = (
    "{% for message in messages %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""What documents of a corpus are written in where nothing else is given: text to any tokenizer."""

TURNS = (
    "{% if tools %}{{ bos_token }}tools\n{{ tools | tojson }}{{ eos_token }}{% endif %}"
    "{% for message in messages %}"
    "{{ bos_token }}{{ message.role }}\n{{ message.content }}"
    "{% for call in message.tool_calls or [] %}"
    "<tool_call>{{ call.function | tojson }}</tool_call>"
    "{% endfor %}"
    "{{ eos_token }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ bos_token }}assistant\n{% endif %}"
)
"""What a model without a template is tuned and exported with: turns between tokens that every model has."""

Render = Callable[[list[dict[str, Any]]], str]


class TemplateFailure(Exception):
    """A template failed on the messages that it was given."""


def template_text(path: str) -> str:
    """Return a template's text.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"chat_template {path} cannot be read ({error}); give a file in Jinja's form"
        ) from error


def renderer(path: str | None) -> Render:
    """Return what renders messages, by ChatML's template where none is given.

    It raises TemplateFailure where the template fails on them.

    Raises:
        ConfigError: the template cannot be read or is wrong.
    """
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )

    def refuse(message: str) -> str:
        raise TemplateError(message)

    text = CHATML if path is None else template_text(path)
    try:
        template = environment.from_string(text, globals={"raise_exception": refuse})
    except TemplateError as error:
        raise ConfigError(f"chat_template {path} is wrong ({error}); mend it") from error

    def render(messages: list[dict[str, Any]]) -> str:
        try:
            return template.render(
                messages=messages, add_generation_prompt=False, bos_token="", eos_token="", tools=None
            )
        except Exception as error:  # the template is the user's program: it may fail in any way
            raise TemplateFailure(str(error)[:200]) from error

    return render
