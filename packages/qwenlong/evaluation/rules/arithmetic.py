"""Short Python expressions of numbers, read without running anything.

Scorers that hand a model's text to eval() accept "1.5*10**3" as a number; here the syntax tree is walked instead, and
only what is listed below has a value. Length, nesting and the size of whole numbers are bounded, so that no text costs
more than a moment.
"""

from __future__ import annotations

import ast
import math
import operator
import warnings
from collections.abc import Callable
from typing import Any

#: A longer text is no number; what an extractor of answers returns is far shorter.
MAX_CHARACTERS = 200
#: Larger whole numbers (in bits) have no float, so that nothing can be compared with them.
MAX_BITS = 1024

_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Invert: operator.invert,
}
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.BitXor: operator.xor,
    ast.BitOr: operator.or_,
    ast.BitAnd: operator.and_,
}
#: Functions of one or two numbers, none of which can take long.
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": abs,
    "float": float,
    "int": int,
    "math.exp": math.exp,
    "math.log": math.log,
    "math.log10": math.log10,
    "math.pow": math.pow,
    "math.sqrt": math.sqrt,
    "max": max,
    "min": min,
}

Number = int | float | complex


class NoNumber(ValueError):
    """The text is no expression of numbers."""


def evaluate(text: str) -> Number | str | list[Number | str]:
    """Return what the expression `text` stands for: a number, a quoted text, or a list of them.

    Raises NoNumber for everything else: names, attributes, other calls, comparisons, numbers without bounds.
    """
    if len(text) > MAX_CHARACTERS:
        raise NoNumber("too long")
    try:
        with warnings.catch_warnings():
            # "5if" is about to be an error in Python; that is nobody's concern here.
            warnings.simplefilter("ignore")
            tree = ast.parse(text.lstrip(" \t"), mode="eval")
        if isinstance(tree.body, ast.Tuple | ast.List | ast.Set):
            return [_value(element) for element in tree.body.elts]
        return _value(tree.body)
    except NoNumber:
        raise
    except (SyntaxError, ValueError, TypeError, ArithmeticError, RecursionError, MemoryError) as error:
        raise NoNumber(type(error).__name__) from error


def _value(node: ast.expr) -> Number | str:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float | complex | str):
        return node.value
    if isinstance(node, ast.UnaryOp) and type(node.op) in _UNARY:
        return _bounded(_UNARY[type(node.op)](_number(node.operand)))
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        return _bounded(_BINARY[type(node.op)](_number(node.left), _number(node.right)))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        return _power(_number(node.left), _number(node.right))
    if isinstance(node, ast.Call) and not node.keywords and 1 <= len(node.args) <= 2:
        function = _FUNCTIONS.get(ast.unparse(node.func) if isinstance(node.func, ast.Name | ast.Attribute) else "")
        if function is not None:
            return _bounded(function(*(_number(argument) for argument in node.args)))
    raise NoNumber(type(node).__name__)


def _number(node: ast.expr) -> Number:
    value = _value(node)
    if isinstance(value, str):
        raise NoNumber("text in arithmetic")
    return _bounded(value)


def _power(base: Number, exponent: Number) -> Number:
    # A float or complex power is one step of the machine; a whole one is as long as its result.
    if isinstance(base, int) and isinstance(exponent, int) and base.bit_length() * abs(exponent) > MAX_BITS:
        raise NoNumber("too large")
    return _bounded(base**exponent)


def _bounded(value: Any) -> Number:
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise NoNumber("too large")
    return value  # type: ignore[no-any-return]
