from dataclasses import fields

import pytest

from dann.infer.errors import UsageError
from dann.train.rendering.styles import SIMULATED_PHOTO, STYLES, VARIED, Style, style_of


def test_a_style_is_changed_by_plain_values():
    style = style_of("varied", {"elevation_deg": [0, 5], "studio": 1, "jpeg": [80, 90]})
    assert (style.elevation_deg, style.studio, style.jpeg) == ((0.0, 5.0), 1.0, (80, 90))
    assert style.key == VARIED.key


def test_one_number_is_both_ends_of_a_range():
    style = style_of("studio", {"elevation_deg": 20, "key": 0.5, "margin": 0, "jpeg": 80, "stretch": 0.1})
    assert (style.elevation_deg, style.key, style.margin) == ((20, 20), (0.5, 0.5), (0, 0))
    assert (style.jpeg, style.stretch) == ((80, 80), 0.1)


@pytest.mark.parametrize("name", STYLES)
def test_every_style_goes_by_its_name(name):
    assert style_of(name, {}) is not None and style_of(name, {}) == STYLES[name]


@pytest.mark.parametrize("field", [field.name for field in fields(Style)])
def test_no_number_may_be_absurd(field):
    single = isinstance(getattr(VARIED, field), float)
    for value in (10**9, -(10**9)):
        with pytest.raises(UsageError, match=rf"^{field} is "):
            style_of("varied", {field: value if single else [value, value]})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"elevation": [0, 5]},
            "unknown setting 'elevation'; did you mean 'elevation_deg'.*; docs/rendering.md has all",
        ),
        ({"elevation_deg": [5, 0]}, r"elevation_deg is \[5.0, 0.0\]; expected two numbers, the lower one first"),
        ({"elevation_deg": [5]}, "elevation_deg is .*; expected two numbers"),
        ({"elevation_deg": [1, 2, 3]}, "elevation_deg is .*; expected two numbers"),
        ({"elevation_deg": []}, "elevation_deg is .*; expected two numbers"),
        ({"elevation_deg": [float("nan"), 3]}, "elevation_deg is .*; expected two numbers"),
        ({"elevation_deg": "5"}, "elevation_deg is '5'; expected a list"),
        ({"elevation_deg": True}, "elevation_deg is True; expected a list"),
        ({"elevation_deg": 90}, "elevation_deg is .*; expected values from 0 to 89"),
        ({"jpeg": 80.5}, "jpeg is 80.5; expected int"),
        ({"elevation_deg": ["a", "b"]}, "elevation_deg is 'a'; expected float"),
        ({"elevation_deg": [0, 95]}, r"elevation_deg is .*; expected values from 0 to 89"),
        ({"studio": 2}, "studio is 2.0; expected values from 0 to 1"),
        ({"studio": [0, 1]}, r"studio is \[0, 1\]; expected float"),
        ({"jpeg": [0.5, 90]}, "jpeg is 0.5; expected int"),
    ],
)
def test_what_makes_no_sense_is_refused(changes, message):
    with pytest.raises(UsageError, match=message):
        style_of("varied", changes)


def test_an_unknown_style_is_refused_and_the_nearest_named():
    with pytest.raises(UsageError, match="unknown look 'studo'; did you mean 'studio'"):
        style_of("studo", {})


def test_every_effect_of_the_simulated_photo_is_on():
    for name in ("clutter", "occluder_chance", "cast"):
        assert getattr(SIMULATED_PHOTO, name) != 0
    for name in ("defocus", "motion", "vignette", "noise", "skyline", "occluder"):
        low, high = getattr(SIMULATED_PHOTO, name)
        assert 0 <= low < high
