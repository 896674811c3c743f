"""Errors as OpenAI's clients expect them: a status and ``{"error": {message, type, param, code}}``."""

from __future__ import annotations

from typing import Any

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class ApiError(Exception):
    """A request that is not answered as it wished.

    Args:
        status: of HTTP.
        message: one sentence for the client's developer.
        param: the parameter that it is about.
        code: a word that programs can tell it by.
        retry_after: seconds after which trying again makes sense.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.status, self.message, self.param, self.code, self.retry_after)

    @property
    def body(self) -> dict[str, Any]:
        """What is sent."""
        kind = TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """What goes with it."""
        return {} if self.retry_after is None else {"retry-after": str(self.retry_after)}


def _restored(
    status: int, message: str, param: str | None, code: str | None, retry_after: int | None
) -> ApiError:
    return ApiError(status, message, param=param, code=code, retry_after=retry_after)


def overloaded(seconds: float) -> ApiError:
    """The error of a full queue, whose next place is free in about so many seconds."""
    wait = max(1, round(seconds))
    return ApiError(503, f"the server is full; try again in {wait} s", code="overloaded", retry_after=wait)
