"""Chat messages as a model reads them: a template's text, which of it is the assistant's, and its token ids.

Templates are rendered by Transformers, so that a conversation is the same text here and in any client.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codex_ray.errors import CodexRayError, ConfigError
from codex_ray.tokenizer.chat import TEMPLATE_FILE, TURNS, TemplateFailure, template_text
from codex_ray.tokenizer.tokenizer import Tokenizer

Messages = Sequence[dict[str, Any]]
Tools = Sequence[dict[str, Any]] | None  # schemas of functions, as the OpenAI API has them
_MARKS_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True)
class Segment:
    """A stretch of a conversation's text; ``learnt`` where the assistant wrote it, its end token included."""

    text: str
    learnt: bool


@dataclass(frozen=True)
class ChatTemplate:
    """A chat template and the tokenizer whose special tokens it writes."""

    text: str
    tokenizer: Tokenizer

    @classmethod
    def of(cls, tokenizer: Tokenizer, folder: Path | None, given: str | None = None) -> ChatTemplate:
        """Take the template of a file, else of a model folder, else turns between the tokenizer's own tokens.

        Raises:
            ConfigError: the file cannot be read, or is no template.
        """
        text = template_text(given) if given is not None else (folder and saved_template(folder)) or TURNS
        refuse_wrong_template(text, f"the chat template of {given or folder}")
        return cls(text, tokenizer)

    def render(self, messages: Messages, *, open_turn: bool = False, tools: Tools = None) -> str:
        """Return the messages' text; with ``open_turn``, up to where the assistant begins to write.

        Raises:
            TemplateFailure: the template refuses these messages, or leaves a tool or a call of one out.
        """
        return self._render(messages, open_turn, tools)[0]

    def segments(self, messages: Messages, tools: Tools = None) -> list[Segment]:
        """Cut the text of messages up to the last of the assistant's into what it wrote and what it read.

        A template with ``{% generation %}`` says so itself. Otherwise the assistant's turn is what the
        template adds to the text before it and the header of an open turn, without blanks after a special
        token, which no model needs to write.

        Raises:
            TemplateFailure: the template refuses the messages, or does not write turns one after another.
        """
        if _MARKS_GENERATION.search(self.text):
            whole, spans = self._render(messages, False, tools)
        else:
            whole, spans = self._by_prefixes(messages, tools)
        found, place = [], 0
        for start, end in spans:
            found += [Segment(whole[place:start], False), Segment(whole[start:end], True)]
            place = end
        return [segment for segment in found if segment.text]

    def encode(
        self, segments: Sequence[Segment], messages: Messages, tools: Tools = None
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Return the ids of segments, each encoded by itself, and which of them are learnt.

        Special tokens that stand in a message's own content, in a tool or in a call of one, are text.
        """
        ids, learnt = [], []
        literals = self._literals([tools, *messages])
        for segment in segments:
            for part, literal in _parts(segment.text, literals):
                (found,) = self.tokenizer.encode_arrays([part], parse_special=not literal)
                ids.append(found)
                learnt.append(np.full(len(found), segment.learnt))
        return np.concatenate(ids or [np.empty(0, np.uint32)]), np.concatenate(learnt or [np.empty(0, bool)])

    def prompt(self, messages: Messages, tools: Tools = None) -> list[int]:
        """Return the ids of messages up to where the assistant begins to write.

        Raises:
            TemplateFailure: the template refuses the messages.
        """
        text = self.render(messages, open_turn=True, tools=tools)
        ids, _ = self.encode([Segment(text, False)], messages, tools)
        return [int(token) for token in ids]

    def _literals(self, values: Any) -> list[str]:
        """Return the strings within, in their order, that hold what looks like a special token.

        Each stands as it is or, within JSON, escaped.
        """
        if isinstance(values, str):
            bare = values.strip()
            found = any(special in bare for special in self.tokenizer.special_texts)
            return [bare] if found else []
        if isinstance(values, dict):
            values = [one for item in values.items() for one in item]
        if not isinstance(values, list | tuple):
            return []
        return [text for one in values for text in self._literals(one)]

    def _by_prefixes(self, messages: Messages, tools: Tools) -> tuple[str, list[tuple[int, int]]]:
        last = max((place for place, message in enumerate(messages) if is_assistant(message)), default=-1)
        whole, spans = self.render(messages[: last + 1], tools=tools) if last >= 0 else "", []
        for place, message in enumerate(messages[: last + 1]):
            if not is_assistant(message):
                continue
            before = self.render(messages[:place], open_turn=True, tools=tools)
            after = self.render(messages[: place + 1], tools=tools)
            if not (len(before) <= len(after) and whole.startswith(after) and after.startswith(before)):
                raise TemplateFailure(
                    f"it does not write turn {place + 1} after those before it as while chatting; mark what "
                    "the assistant writes with {% generation %} in a template of your own"
                )
            spans.append((len(before), len(self._without_blanks(after))))
        return whole, spans

    def _without_blanks(self, text: str) -> str:
        bare = text.rstrip()
        return bare if bare.endswith(tuple(self.tokenizer.special_texts)) else text

    def _render(self, messages: Messages, open_turn: bool, tools: Tools) -> tuple[str, list[tuple[int, int]]]:
        from transformers.utils.chat_template_utils import render_jinja_template

        marked = not open_turn and bool(_MARKS_GENERATION.search(self.text))
        try:
            rendered, spans = render_jinja_template(
                [list(messages)],
                tools=list(tools) if tools else None,
                chat_template=self.text,
                add_generation_prompt=open_turn,
                return_assistant_tokens_mask=marked,
                **self.tokenizer.special_names,
            )
        except Exception as error:  # the template is somebody's program: it may fail in any way
            raise TemplateFailure(str(error)[:200]) from error
        calls = [call for message in messages for call in message.get("tool_calls") or ()]
        for named in (*(tools or ()), *calls):
            name = named.get("function", named).get("name")
            if str(name) not in rendered[0]:
                raise TemplateFailure(
                    f"it leaves out the tool {name}; give a template that knows tools, as data.chat_template"
                )
        return rendered[0], [tuple(span) for span in spans[0]] if marked else []


def _parts(text: str, literals: Sequence[str]) -> list[tuple[str, bool]]:
    """Cut out what stands in ``literals``, which are in the text's order; true where text is literal."""
    parts, place = [], 0
    for literal in literals:
        for form in (literal, json.dumps(literal, ensure_ascii=False)[1:-1]):
            start = text.find(form, place)
            if start >= 0:
                parts += [(text[place:start], False), (form, True)]
                place = start + len(form)
                break
    parts.append((text[place:], False))
    return [part for part in parts if part[0]]


def refuse_wrong_template(text: str, what: str) -> None:
    """Refuse a chat template that Transformers cannot compile.

    Raises:
        ConfigError: it cannot; ``what`` names it.
    """
    from jinja2 import TemplateSyntaxError
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        render_jinja_template([[{"role": "user", "content": ""}]], chat_template=text)
    except TemplateSyntaxError as error:
        raise ConfigError(f"{what} is wrong ({error}); mend it") from error
    except Exception:
        return  # it may refuse such messages, or fail for want of special tokens: it compiles


def saved_template(folder: Path) -> str | None:
    """Return the chat template that a model folder has; None where it has none."""
    file, configuration = folder / TEMPLATE_FILE, folder / "tokenizer_config.json"
    try:
        if file.is_file():
            return file.read_text(encoding="utf-8")
        if configuration.is_file():
            found = json.loads(configuration.read_text(encoding="utf-8")).get("chat_template")
            return found if isinstance(found, str) else None
    except (OSError, ValueError) as error:
        raise CodexRayError(
            f"the chat template in {folder} cannot be read ({error}); export it again"
        ) from error
    return None


def is_assistant(message: dict[str, Any]) -> bool:
    """Whether a message is one that the model writes."""
    return bool(message["role"] == "assistant")
