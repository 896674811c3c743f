"""Chat messages of a record, with the tools that they may call, as templates want them."""

from __future__ import annotations

import json
from typing import Any

from codex_ray.corpus.sources.reasons import UnreadableError
from codex_ray.tokenizer.conversation import is_assistant

Message = dict[str, Any]


def messages_of(value: Any, column: str) -> list[Message]:
    """Return messages up to the last of the assistant's; all have a content, which beside calls may be empty.

    Arguments of calls become objects where they are JSON text, as the OpenAI API sends them; what a table
    has filled with nulls is left out.

    Raises:
        UnreadableError: there are none, one is none, or the assistant says nothing and calls nothing.
    """
    if isinstance(value, UnreadableError):
        raise value
    if not isinstance(value, list) or not value:
        raise UnreadableError(f"no messages: column {column} is no list of messages")
    messages = [_message(message, f"message {place} of {column}") for place, message in enumerate(value, 1)]
    last = max((place for place, message in enumerate(messages) if is_assistant(message)), default=-1)
    written = [message for message in messages[: last + 1] if is_assistant(message)]
    if not any(message["content"].strip() or message.get("tool_calls") for message in written):
        raise UnreadableError(f"empty response: no message of {column} is the assistant's, or all are blank")
    return messages[: last + 1]


def _message(value: Any, where: str) -> Message:
    if not isinstance(value, dict):
        raise UnreadableError(f"no messages: {where} has no role that is text")
    message = {key: part for key, part in value.items() if part is not None}
    calls = message.pop("tool_calls", None)
    if calls:
        message["tool_calls"] = _calls(calls, where)
        message.setdefault("content", "")
    for key in ("role", "content"):
        if not isinstance(message.get(key), str):
            raise UnreadableError(f"no messages: {where} has no {key} that is text")
    if calls and not is_assistant(message):
        raise UnreadableError(f"no messages: {where} calls a tool and is not the assistant's")
    return message


def _calls(value: Any, where: str) -> list[Message]:
    calls = _parsed(value)
    if not isinstance(calls, list):
        raise UnreadableError(f"no messages: tool_calls of {where} is no list")
    found = []
    for call in calls:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise UnreadableError(f"no messages: a call of {where} names no function")
        arguments = _parsed(function.get("arguments", {}))
        if not isinstance(arguments, dict):
            raise UnreadableError(f"no messages: the arguments of a call of {where} are no JSON object")
        kept = {key: part for key, part in call.items() if part is not None}
        found.append({**kept, "type": "function", "function": {**function, "arguments": arguments}})
    return found


def tools_of(value: Any, column: str) -> list[Message] | None:
    """Return the schemas of tools, a list or its JSON text; None where there are none.

    Raises:
        UnreadableError: a tool has no name.
    """
    tools = _parsed(value)
    if not tools:
        return None
    if not isinstance(tools, list):
        raise UnreadableError(f"no tools: column {column} is no list of tools")
    for tool in tools:
        function = tool.get("function", tool) if isinstance(tool, dict) else {}
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise UnreadableError(f"no tools: a tool of column {column} has no name")
    return tools


def _parsed(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value
