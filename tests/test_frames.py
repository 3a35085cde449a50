import numpy as np
import pytest
import torch

from diffusers_helper.core.errors import NumericsError
from diffusers_helper.media.frames import (
    crop_or_pad_yield_mask,
    require_finite,
    require_picture,
    rgb_frames,
    soft_append_bcthw,
)


def clip(frames, seed=0):
    return torch.randn(2, 3, frames, 2, 4, generator=torch.Generator().manual_seed(seed))


def test_cross_fade_is_linear_from_the_earlier_to_the_later_clip():
    history, current = torch.full((1, 1, 5, 1, 1), 10.0), torch.full((1, 1, 4, 1, 1), 20.0)
    joined = soft_append_bcthw(history, current, overlap=3)
    assert joined.flatten().tolist() == [10, 10, 10, 15, 20, 20]


@pytest.mark.parametrize("overlap", [0, 1, 2, 3])
def test_joined_length_and_untouched_ends(overlap):
    history, current = clip(3, seed=1), clip(5, seed=2)
    joined = soft_append_bcthw(history, current, overlap)
    assert joined.shape[2] == 8 - overlap
    assert torch.equal(joined[:, :, : 3 - overlap], history[:, :, : 3 - overlap])
    assert torch.equal(joined[:, :, 3:], current[:, :, overlap:])


@pytest.mark.parametrize("overlap", [-1, 4])
def test_an_impossible_overlap_is_a_value_error(overlap):
    with pytest.raises(ValueError, match="cross-fade"):
        soft_append_bcthw(clip(3), clip(5), overlap)
    with pytest.raises(ValueError, match="cross-fade"):
        soft_append_bcthw(clip(5), clip(3), overlap)


@pytest.mark.parametrize(("length", "valid"), [(2, 2), (3, 3), (5, 3)])
def test_crop_or_pad(length, valid):
    x = clip(3)[0, :, :, 0]  # (3, 3, 4)
    result, mask = crop_or_pad_yield_mask(x, length)
    assert result.shape == (3, length, 4)
    assert mask.dtype == torch.bool
    assert mask.tolist() == [[True] * valid + [False] * (length - valid)] * 3
    assert torch.equal(result[:, :valid], x[:, :valid])
    assert not result[:, valid:].any()


def test_values_are_clamped_and_rounded():
    values = torch.tensor([-9.0, -1, 0.2 / 127.5 - 1, 0.8 / 127.5 - 1, 1, 1.004, 70])
    (frame,) = rgb_frames(values.view(1, 1, 1, 1, -1).expand(1, 3, 1, 1, -1))
    assert frame.dtype == np.uint8
    assert frame[0, :, 1].tolist() == [0, 0, 0, 1, 255, 255, 255]


def test_frames_are_in_order_and_videos_side_by_side():
    video = torch.arange(2 * 3 * 2 * 2 * 4).view(2, 3, 2, 2, 4)
    frames = list(rgb_frames(video / 127.5 - 1))
    assert [frame.shape for frame in frames] == [(2, 8, 3)] * 2
    for time, frame in enumerate(frames):
        for side in range(2):
            expected = video[side, :, time].permute(1, 2, 0).numpy()
            np.testing.assert_array_equal(frame[:, 4 * side : 4 * side + 4], expected)


def test_finite_pixels_pass_and_the_sentence_names_its_subject():
    require_finite(clip(2), "The video")
    with pytest.raises(NumericsError, match=r"^Section 3 came out"):
        require_finite(torch.tensor([1.0, float("nan")]), "Section 3")


def dark(frames):
    return torch.full((1, 3, frames, 8, 8), -1.0)


def changed(clip, index, value):
    clip[index] = value
    return clip


STRIPES = torch.linspace(-1, 1, 8).expand(1, 3, 9, 8, 8)


@pytest.mark.parametrize(
    ("pixels", "told"),
    [
        (dark(9), "one flat colour"),
        (dark(9) - torch.rand(1, 3, 9, 8, 8), "one flat colour"),  # below what is visible
        (torch.tensor([1.0, -1, 0]).view(1, 3, 1, 1, 1).expand(1, 3, 9, 8, 8), "one flat colour"),
        (dark(9) + torch.linspace(0, 2, 9).view(1, 1, 9, 1, 1), "one flat colour"),  # it fades, and shows nothing
        (STRIPES, "a picture that never changes"),
        (STRIPES + 1e-4 * torch.rand(1, 3, 9, 8, 8), "a picture that never changes"),
        (changed(dark(9), (0, 0, 4, 2, 2), 0.0), None),
        (changed(STRIPES.clone(), (0, 0, 4, 2, 2), 0.9), None),
        (STRIPES[:, :, :1], None),  # one frame cannot move
        (changed(STRIPES.clone(), (0, 0, 4, 2, 2), float("nan")), None),  # another check's
    ],
)
def test_a_clip_that_shows_nothing_is_told(pixels, told):
    if told is None:
        require_picture(pixels, 3)
    else:
        with pytest.raises(NumericsError, match=f"^Section 3 came out as {told}.*Try another seed.*models verify"):
            require_picture(pixels, 3)
