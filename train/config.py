"""Where settings come from: a preset, a method, a TOML file, flags; the later one wins.

``presets/NAME.toml`` is a data pair with everything that trains on it; ``methods/NAME.toml`` a combination of
adaptation objectives, which takes the place of the preset's.
"""

import json
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

from dann.infer.errors import UsageError, unknown_name
from dann.train.settings import ObjectivesConfig, TrainConfig

DEFAULT_PRESET = "cars"


def resolve(
    preset: str | None = None,
    file: Path | None = None,
    overrides: dict[str, Any] | None = None,
    *,
    method: str | None = None,
) -> TrainConfig:
    """Preset, method, TOML file, then ``overrides`` with dotted keys (``{"data.source": "mnist"}``); the last wins.

    Raises :class:`UsageError` for what is unknown or out of range, and for a file that takes the method back.
    """
    values = load_preset(preset) if preset is not None else {}
    if method is not None:
        _set_method(values, method)
    if file is not None:
        given = _read_toml(file)
        if method is not None:
            _check_kept(method, given.get("objectives"), file)
        _overlay(values, given)
    flags: dict[str, Any] = {}
    for dotted, value in (overrides or {}).items():
        for name in reversed(dotted.split(".")):
            value = {name: value}
        _merge(flags, value)
    _overlay(values, flags)
    return TrainConfig.from_dict(values)


def with_method(config: TrainConfig, name: str) -> TrainConfig:
    """``config`` in mode ``dann`` with the objectives of the method ``name`` instead of its own."""
    values = config.to_dict()
    _set_method(values, name)
    return TrainConfig.from_dict({**values, "mode": "dann"})


def _set_method(values: dict[str, Any], name: str) -> None:
    method = load_method(name)
    values["objectives"] = method.pop("objectives")
    _merge(values, method)


def _check_kept(method: str, objectives: Any, file: Path) -> None:
    """A file may change the weights of a method; one that says 0, as a printed configuration may, means another."""
    losses = ObjectivesConfig().weights()
    for name, weight in load_method(method)["objectives"].items():
        if name in losses and weight and isinstance(objectives, dict) and objectives.get(name, weight) == 0:
            raise UsageError(
                f"the method {method!r} is made of objectives.{name}, which is 0 in {str(file)!r}; leave out the "
                "method, or that line"
            )


def preset_names() -> list[str]:
    """The presets that ship with dann, sorted."""
    return _names("presets")


def load_preset(name: str) -> dict[str, Any]:
    """The values of a preset as nested tables; :class:`UsageError` with the nearest name where there is none."""
    return _load("presets", "preset", name)


def method_names() -> list[str]:
    """The methods that ship with dann, sorted."""
    return _names("methods")


def load_method(name: str) -> dict[str, Any]:
    """The values of a method as nested tables; :class:`UsageError` with the nearest name where there is none."""
    return _load("methods", "method", name)


def _names(folder: str) -> list[str]:
    entries = (resources.files("dann.train") / folder).iterdir()
    return sorted(entry.name.removesuffix(".toml") for entry in entries if entry.name.endswith(".toml"))


def _load(folder: str, kind: str, name: str) -> dict[str, Any]:
    if name not in _names(folder):
        raise unknown_name(kind, name, _names(folder))
    return tomllib.loads((resources.files("dann.train") / folder / f"{name}.toml").read_text(encoding="utf-8"))


def to_toml(config: TrainConfig) -> str:
    """The configuration as TOML that ``--config`` reads back; unset values are comments."""
    tables: list[str] = []
    scalars = []
    for key, value in config.to_dict().items():
        if isinstance(value, dict):
            tables += ["", f"[{key}]", *(_toml_line(name, entry) for name, entry in value.items())]
        else:
            scalars.append(_toml_line(key, value))
    return "\n".join(scalars + tables) + "\n"


def _toml_line(key: str, value: Any) -> str:
    if value is None:
        return f"# {key} is not set"
    if isinstance(value, bool):
        return f"{key} = {str(value).lower()}"
    if isinstance(value, str):
        return f"{key} = {json.dumps(value, ensure_ascii=False)}".replace("\x7f", "\\u007f")  # what JSON leaves bare
    return f"{key} = {list(value) if isinstance(value, tuple) else value!r}"


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"configuration {str(file)!r} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"configuration {str(file)!r} is not valid TOML: {error}") from error


def _overlay(values: dict[str, Any], given: dict[str, Any]) -> None:
    """Merge a layer over those before it; its ``epochs`` take the place of their ``steps``."""
    if "epochs" in given and "steps" not in given:
        values.pop("steps", None)
    _merge(values, given)


def _merge(into: dict[str, Any], values: dict[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value
