"""Dataclasses from plain values: what fits, what is widened, and what is refused by its dotted name."""

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from dann.infer.errors import UsageError
from dann.train.plain_values import build


@dataclass(frozen=True, kw_only=True)
class Inner:
    share: float = 0.5
    kind: Literal["round", "square"] = "round"


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str = ""
    count: int | None = None
    widths: tuple[int, ...] = ()
    inner: Inner = field(default_factory=Inner)
    other: Inner | None = None
    note: str | None = "a note"
    switched_on: bool = False


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, Outer()),
        ({"name": "x", "count": 3, "switched_on": True}, Outer(name="x", count=3, switched_on=True)),
        ({"count": None, "other": None}, Outer()),
        ({"count": "none", "other": "none"}, Outer()),
        ({"name": "none", "note": "none"}, Outer(name="none", note="none")),
        ({"note": None}, Outer(note=None)),
        ({"inner": {"share": 1, "kind": "square"}}, Outer(inner=Inner(share=1.0, kind="square"))),
        ({"other": {}}, Outer(other=Inner())),
        ({"widths": [3, 4]}, Outer(widths=(3, 4))),
        ({"widths": ()}, Outer()),
    ],
)
def test_what_fits_is_taken(values: dict[str, Any], expected: Outer):
    assert build(Outer, values, where="") == expected


def test_a_whole_number_becomes_a_real_one():
    assert type(build(Inner, {"share": 1}, where="").share) is float


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"nam": "x"}, "unknown setting 'at.nam'; did you mean 'at.name'?"),
        ({"inner": {"shar": 1.0}}, "unknown setting 'at.inner.shar'; did you mean 'at.inner.share'?"),
        ({"other": {"kind": "rond"}}, "unknown value of at.other.kind 'rond'; did you mean 'round'?"),
        ({"inner": None}, "at.inner is None; expected a table of settings"),
        ({"inner": [1]}, "at.inner is [1]; expected a table of settings"),
        ({"other": 1}, "at.other is 1; expected a table of settings"),
        ({"name": None}, "at.name is None; expected str"),
        ({"name": {"share": 1}}, "at.name is {'share': 1}; expected str"),
        ({"count": "3"}, "at.count is '3'; expected int"),
        ({"count": True}, "at.count is True; expected int"),
        ({"count": 3.0}, "at.count is 3.0; expected int"),
        ({"inner": {"share": True}}, "at.inner.share is True; expected float"),
        ({"switched_on": 1}, "at.switched_on is 1; expected bool"),
        ({"widths": "34"}, "at.widths is '34'; expected a list"),
        ({"widths": [3, "4"]}, "at.widths is '4'; expected int"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_dotted_name(values: dict[str, Any], message: str):
    with pytest.raises(UsageError) as caught:
        build(Outer, values, where="at.")
    assert message in str(caught.value)
