"""The part of JSON Schema, draft 2020-12, that ``manifest.schema.json`` uses.

So the schema that is published is the one that is checked, without a package for it where dann only infers.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

_TYPES = {"object": dict, "array": list, "string": str, "integer": int, "null": type(None)}

_HOLDS: Mapping[str, Callable[[Any, Any], object]] = {
    "type": lambda value, names: type(value) in [_TYPES[name] for name in ([names] if type(names) is str else names)],
    "const": lambda value, only: type(value) is type(only) and value == only,
    "enum": lambda value, known: type(value) is str and value in known,
    "pattern": lambda value, pattern: re.search(pattern, value),
    "minimum": lambda value, least: value is None or value >= least,
    "minItems": lambda value, least: len(value) >= least,
    "maxItems": lambda value, most: len(value) <= most,
    "uniqueItems": lambda value, asked: len(set(map(repr, value))) == len(value),
}
"""By keyword, whether a value is what it asks for. Others count on ``type``, which the schema has first."""

_PARTS = {"$ref", "required", "properties", "additionalProperties", "propertyNames", "items", "prefixItems"}
_NOTES = {"$schema", "$defs", "title", "description"}


def check(value: Any, schema: dict[str, Any], root: dict[str, Any], at: str) -> None:
    """Raise :class:`ValueError` if ``value`` of JSON, called ``at``, is not as ``schema``, a part of ``root``, asks.

    An integer is what is written without a fraction.
    """
    for keyword, asked in schema.items():
        if keyword in _HOLDS:
            if not _HOLDS[keyword](value, asked):
                raise ValueError(f"{at} is {value!r:.80}; expected {keyword} {asked!r:.80}")
        elif keyword not in _PARTS and keyword not in _NOTES:
            raise NotImplementedError(f"the schema asks for {keyword!r}, which is not checked")
    if "$ref" in schema:
        check(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root, at)
    for name, inner, asked in _parts(value, schema, at):
        check(inner, asked, root, name)


def _parts(value: Any, schema: dict[str, Any], at: str) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Name, value and schema of each part; :class:`ValueError` for one that is missing or not known."""
    if "items" in schema:
        first = schema.get("prefixItems", [])
        for index, item in enumerate(value):
            yield f"{at}[{index}]", item, first[index] if index < len(first) else schema["items"]
    known, others = schema.get("properties", {}), schema.get("additionalProperties")
    if known or others:
        missing = [name for name in schema.get("required", ()) if name not in value]
        unknown = [name for name in value if others is False and name not in known]
        if missing or unknown:
            raise ValueError(f"{at} has no {missing}" if missing else f"{at} has {unknown!r:.80}, which is not known")
        for name, item in value.items():
            if "propertyNames" in schema:
                yield f"a name in {at}", name, schema["propertyNames"]
            yield f"{at}.{name}", item, known.get(name, others)
