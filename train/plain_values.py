"""Dataclasses from plain values, as TOML and JSON hold them; what does not fit is refused by its dotted name."""

import dataclasses
import types
import typing
from typing import Any, Literal

from dann.infer.errors import UsageError, unknown_name


def build(cls: type, values: dict[str, Any], where: str) -> Any:
    """An instance of the dataclass ``cls`` from plain values; ``where`` is the dotted prefix for messages.

    What may be ``None`` may also be given as ``"none"``, as TOML has no null; where a string may stand, that is one.
    """
    hints = typing.get_type_hints(cls)
    arguments = {}
    for key, value in values.items():
        if key not in hints:
            raise unknown_name("setting", where + key, [where + name for name in hints])
        arguments[key] = _checked(hints[key], value, where + key)
    return cls(**arguments)


def _checked(hint: Any, value: Any, name: str) -> Any:
    """``value`` if it fits the type hint (numbers widened, lists made tuples), else :class:`UsageError`."""
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise UsageError(f"{name} is {value!r}; expected a table of settings")
        return build(typing.cast(type, hint), value, where=f"{name}.")
    origin = typing.get_origin(hint)
    if origin is Literal:
        if value not in typing.get_args(hint):
            raise unknown_name(f"value of {name}", str(value), typing.get_args(hint))
        return value
    if origin is types.UnionType:
        (given,) = (option for option in typing.get_args(hint) if option is not type(None))
        if value is None or (value == "none" and given is not str):
            return None
        return _checked(given, value, name)
    if origin is tuple and isinstance(value, (list, tuple)):
        element = typing.get_args(hint)[0]
        return tuple(_checked(element, entry, name) for entry in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint not in (int, float, str, bool) or type(value) is not hint:
        expected = "a list, as in [1, 2]" if origin is tuple else getattr(hint, "__name__", hint)
        raise UsageError(f"{name} is {value!r}; expected {expected}")
    return value
