"""Prompts before they are answered: the risk that they are attacks, and what an outside API says of them."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import aiohttp

from codex_ray.config.serve import Guarding
from codex_ray.safety import prompt_risk
from codex_ray.serve.errors import ApiError

KEY = "CODEX_RAY_MODERATION_KEY"

LONGEST_ANSWER = 2**20
"""Bytes of the moderation API's answer that are read."""


class Screen:
    """Looks at prompts as the settings say."""

    def __init__(self, settings: Guarding) -> None:
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None

    def wanted(self, *, noting: bool) -> bool:
        """Whether prompts are looked at; ``noting``: whether their risk is written down."""
        one = self._settings
        return one.prompts == "refuse" or (one.prompts == "note" and noting) or one.moderation is not None

    async def check(self, texts: list[str]) -> float | None:
        """Return the highest risk of a request's texts, where it is looked for.

        Raises:
            ApiError: a prompt is refused, or cannot be judged where that refuses it.
        """
        risk, settings = None, self._settings
        if settings.prompts != "off":
            risk = max((one.score for one in await asyncio.to_thread(_risks, texts)), default=0.0)
            if settings.prompts == "refuse" and risk >= settings.risk:
                raise ApiError(
                    400, "the prompt looks like an attack and is not answered", code="prompt_refused"
                )
        if settings.moderation is not None and texts:
            await self._moderate(texts)
        return risk

    async def _moderate(self, texts: list[str]) -> None:
        try:
            async with asyncio.timeout(self._settings.moderation_seconds):
                flagged = await self._flagged(texts)
        except (TimeoutError, aiohttp.ClientError, ValueError, LookupError, TypeError) as error:
            if self._settings.moderation_fails == "open":
                return
            raise ApiError(
                503, "the moderation service does not answer; try again", code="moderation", retry_after=5
            ) from error
        if flagged:
            raise ApiError(400, "the prompt is refused by moderation", code="content_policy_violation")

    async def _flagged(self, texts: list[str]) -> bool:
        if self._session is None:
            self._session = aiohttp.ClientSession()
        key = os.environ.get(KEY)
        headers = {"authorization": f"Bearer {key}"} if key else {}
        address = str(self._settings.moderation)
        async with self._session.post(
            address, json={"input": texts}, headers=headers, allow_redirects=False
        ) as answer:
            answer.raise_for_status()
            body = b""
            async for part in answer.content.iter_any():
                body += part
                if len(body) > LONGEST_ANSWER:
                    raise ValueError("the answer is too long")
        return any(bool(one["flagged"]) for one in json.loads(body)["results"])


def _risks(texts: list[str]) -> list[Any]:
    return [prompt_risk(text) for text in texts]
