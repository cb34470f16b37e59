"""MixStyle: whose style an image takes, how much of it, and what never changes."""

import torch
from torch import Tensor

from dann.train.mix_style import MixStyle

CONTENT = torch.randn(1, 3, 8, 8)


def styles(count: int) -> Tensor:
    """The same content ``count`` times, in as many styles."""
    mean, deviation = torch.randn(count, 3, 1, 1), torch.rand(count, 3, 1, 1) + 0.5
    content = (CONTENT - CONTENT.mean((2, 3), keepdim=True)) / CONTENT.std((2, 3), keepdim=True, correction=0)
    return content * deviation + mean


def style_of(images: Tensor) -> tuple[Tensor, Tensor]:
    return images.mean((2, 3)), images.std((2, 3), correction=0)


def test_outside_training_images_pass():
    images = styles(4)
    assert MixStyle().eval()(images) is images


def test_half_of_the_images_keep_their_style_and_the_others_lie_between_two():
    torch.manual_seed(0)
    images = styles(400)
    mixed = MixStyle()(images)
    kept = (mixed - images).abs().amax((1, 2, 3)) < 1e-3
    assert 0.5 < kept.float().mean() < 0.85  # half are left out; of the others, many a weight is nearly 1
    before, after = torch.cat(style_of(images), dim=1), torch.cat(style_of(mixed), dim=1)
    for own, new in zip(before[~kept], after[~kept], strict=True):
        towards = before - own
        share = (towards @ (new - own)) / towards.square().sum(1).clamp(min=1e-9)
        missed = (own + share[:, None] * towards - new).norm(dim=1)
        nearest = missed.argmin()
        assert missed[nearest] < 1e-3 and 0 <= share[nearest] <= 1 + 1e-4


def test_what_is_in_an_image_stays():
    images = styles(16)
    mean, deviation = style_of(mixed := MixStyle()(images))
    content = (mixed - mean[:, :, None, None]) / deviation[:, :, None, None]
    assert torch.allclose(content, content[:1].expand_as(content), atol=1e-3)


def test_the_gradient_is_that_of_a_fixed_style():
    torch.manual_seed(1)
    images = styles(8).requires_grad_()
    state = torch.get_rng_state()
    MixStyle()(images).sum().backward()
    torch.set_rng_state(state)
    mixed = MixStyle()(images.detach())
    (_, before), (_, after) = style_of(images.detach()), style_of(mixed)
    assert images.grad is not None
    assert torch.allclose(images.grad, (after / before)[:, :, None, None].expand_as(images), atol=1e-4)


def test_the_same_seed_mixes_the_same():
    images = styles(8)
    torch.manual_seed(2)
    first = MixStyle()(images)
    torch.manual_seed(2)
    assert torch.equal(first, MixStyle()(images))


def test_half_precision_does_not_overflow():
    mixed = MixStyle()((1000 * styles(32)).half())
    assert mixed.dtype == torch.half and mixed.isfinite().all()
