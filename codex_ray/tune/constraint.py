"""Comparisons between settings, such as ``optimizer.learning_rate * train.batch_tokens < 100``.

They are read, never run: names are settings, and there is nothing but arithmetic and comparisons.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

from codex_ray.errors import ConfigError, nearest

_BINARY: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
}
_COMPARISONS: dict[type[ast.AST], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}


class Constraint:
    """One comparison, or several joined by ``and`` and ``or``.

    Raises:
        ConfigError: it is nothing of that kind.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            self._tree = ast.parse(text, mode="eval").body
        except (SyntaxError, ValueError):
            raise self._unreadable() from None
        if not isinstance(self._tree, ast.Compare | ast.BoolOp):
            raise self._unreadable()

    def check(self, values: Mapping[str, Any]) -> None:
        """See that it can be computed.

        Raises:
            ConfigError: it names what is no setting, or compares what cannot be compared.
        """
        self.holds(values)

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether it holds for settings by dotted key.

        Raises:
            ConfigError: it names what is no setting, or compares what cannot be compared.
        """
        try:
            return bool(self._value(self._tree, values))
        except (TypeError, ZeroDivisionError) as error:
            raise ConfigError(f"sweep.constraints {self.text!r} cannot be computed ({error})") from error

    def _value(self, node: ast.AST, values: Mapping[str, Any]) -> Any:
        match node:
            case ast.Constant(value=int() | float() | str() as value):
                return value
            case ast.Name() | ast.Attribute():
                return self._setting(ast.unparse(node), values)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
                return _BINARY[type(op)](self._value(left, values), self._value(right, values))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self._value(operand, values)
            case ast.BoolOp(op=op, values=parts):
                join = all if isinstance(op, ast.And) else any
                return join([self._value(part, values) for part in parts])
            case ast.Compare(left=left, ops=ops, comparators=rights) if all(
                type(op) in _COMPARISONS for op in ops
            ):
                sides = [self._value(side, values) for side in (left, *rights)]
                pairs = zip(ops, sides, sides[1:], strict=False)
                return all(_COMPARISONS[type(op)](one, other) for op, one, other in pairs)
        raise self._unreadable()

    def _setting(self, key: str, values: Mapping[str, Any]) -> Any:
        if key not in values:
            raise ConfigError(
                f"sweep.constraints {self.text!r} names the unknown setting {key!r}{nearest(key, values)}"
            )
        return values[key]

    def _unreadable(self) -> ConfigError:
        return ConfigError(
            f"sweep.constraints {self.text!r} is not understood; compare settings and numbers with < <= > >= "
            "== != and + - * / %, joined by `and` or `or`"
        )
