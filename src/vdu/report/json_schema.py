"""Checks JSON against a JSON schema (draft 2020-12), as far as ``evidence.schema.json`` uses the language.

Understood: ``type``, ``const``, ``enum``, ``anyOf``, ``required``, ``properties``, ``additionalProperties`` (false or a
schema), ``items``, ``minItems``, ``minimum``, ``maximum``, ``pattern``, and ``$ref`` to ``#/$defs/NAME``. A schema with any
other keyword is refused, so that nothing in it is passed over. Beyond the standard: NaN and infinity are no numbers.

NOT guaranteed: that a full validator gives the same words; it gives the same answer.
"""

import math
import re
from typing import Any

from vdu.core.errors import InputError

__all__ = ["violation"]

_NOTES = {"$schema", "$id", "$defs", "title", "description"}
_KINDS = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}


def violation(value: Any, schema: dict[str, Any], *, root: dict[str, Any] | None = None, where: str = "") -> str | None:
    """The first place where a value breaks a schema.

    Args:
        value: parsed JSON.
        schema: the schema.
        root: the schema's file, for its ``$defs``; the schema itself when None.
        where: the value's place, as a JSON pointer.

    Returns:
        The place and what is wrong there; None if the value obeys.

    Raises:
        InputError: if the schema has a keyword that is not understood here.
    """
    root = schema if root is None else root
    for keyword, rule in schema.items():
        if keyword in _NOTES:
            continue
        if keyword not in _CHECKS:
            raise InputError(f"schema at {where or '/'}: got the keyword {keyword!r}, expected {', '.join(_CHECKS)}.")
        found = _CHECKS[keyword](value, rule, schema, root, where)
        if found:
            return found if found.startswith("/") else f"{where or '/'}: {found}"
    return None


def _is(value: Any, kind: str) -> bool:
    if kind in {"number", "integer"}:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return False
        return kind == "number" or value == int(value)
    return isinstance(value, _KINDS[kind])


def _type(value: Any, rule: Any, *_: Any) -> str | None:
    kinds = rule if isinstance(rule, list) else [rule]
    return None if any(_is(value, kind) for kind in kinds) else f"got {value!r:.60}, expected {' or '.join(kinds)}"


def _same(one: Any, other: Any) -> bool:
    return one == other and isinstance(one, bool) is isinstance(other, bool)


def _const(value: Any, rule: Any, *_: Any) -> str | None:
    return None if _same(value, rule) else f"got {value!r:.60}, expected {rule!r}"


def _enum(value: Any, rule: Any, *_: Any) -> str | None:
    return None if any(_same(value, each) for each in rule) else f"got {value!r:.60}, expected one of {rule}"


def _any_of(value: Any, rule: Any, schema: Any, root: Any, where: str) -> str | None:
    found = [violation(value, each, root=root, where=where) for each in rule]
    return None if None in found else f"fits none of {len(found)} forms; the last: {found[-1]}"


def _required(value: Any, rule: Any, *_: Any) -> str | None:
    missing = [key for key in rule if isinstance(value, dict) and key not in value]
    return f"lacks {', '.join(missing)}" if missing else None


def _properties(value: Any, rule: Any, schema: Any, root: Any, where: str) -> str | None:
    if not isinstance(value, dict):
        return None
    found = (
        violation(value[key], each, root=root, where=f"{where}/{key}") for key, each in rule.items() if key in value
    )
    return next(filter(None, found), None)


def _additional(value: Any, rule: Any, schema: Any, root: Any, where: str) -> str | None:
    if not isinstance(value, dict):
        return None
    others = [key for key in value if key not in schema.get("properties", {})]
    if rule is False:
        return f"has {', '.join(others)}, which is not known" if others else None
    return next(filter(None, (violation(value[key], rule, root=root, where=f"{where}/{key}") for key in others)), None)


def _items(value: Any, rule: Any, schema: Any, root: Any, where: str) -> str | None:
    if not isinstance(value, list):
        return None
    found = (violation(each, rule, root=root, where=f"{where}/{i}") for i, each in enumerate(value))
    return next(filter(None, found), None)


def _min_items(value: Any, rule: Any, *_: Any) -> str | None:
    short = isinstance(value, list) and len(value) < rule
    return f"has {len(value)} entries, expected {rule} or more" if short else None


def _minimum(value: Any, rule: Any, *_: Any) -> str | None:
    return f"got {value}, expected {rule} or more" if _is(value, "number") and value < rule else None


def _maximum(value: Any, rule: Any, *_: Any) -> str | None:
    return f"got {value}, expected {rule} or less" if _is(value, "number") and value > rule else None


def _pattern(value: Any, rule: Any, *_: Any) -> str | None:
    wrong = isinstance(value, str) and re.search(rule, value) is None
    return f"got {value!r:.80}, expected the pattern {rule}" if wrong else None


def _ref(value: Any, rule: str, schema: Any, root: Any, where: str) -> str | None:
    name = rule.removeprefix("#/$defs/")
    if name == rule or name not in root.get("$defs", {}):
        raise InputError(f"schema at {where or '/'}: got $ref {rule!r}, expected #/$defs/ and a name that is there.")
    return violation(value, root["$defs"][name], root=root, where=where)


_CHECKS = {
    "type": _type,
    "const": _const,
    "enum": _enum,
    "anyOf": _any_of,
    "required": _required,
    "properties": _properties,
    "additionalProperties": _additional,
    "items": _items,
    "minItems": _min_items,
    "minimum": _minimum,
    "maximum": _maximum,
    "pattern": _pattern,
    "$ref": _ref,
}
