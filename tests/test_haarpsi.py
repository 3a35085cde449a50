"""HaarPSI: a value worked out on paper, and what such a likeness has to say of pictures that are known."""

import math

import numpy as np
import pytest
from skimage import data
from skimage.filters import gaussian

from benchmarks.haarpsi import ALPHA, haarpsi, haarpsi_of_clips

PHOTO = data.chelsea()[:256, :384]


def noisy(spread: float) -> np.ndarray:
    noise = np.random.default_rng(7).normal(0, spread, PHOTO.shape)
    return (PHOTO + noise).round().clip(0, 255).astype(np.uint8)


def soft(radius: float) -> np.ndarray:
    return (gaussian(PHOTO, radius, channel_axis=2) * 255).round().astype(np.uint8)


def test_one_edge_against_none_is_what_paper_says():
    """A grey picture whose right half is 10 levels brighter, beside an even one.

    Halved, it has one edge; only windows across it have coefficients: of 2 pixels 10 in one place, of 4 pixels 10, 20,
    10 in three, of 8 pixels, which are the weights, 10, 20, 30, 40, 30, 20, 10 in seven. The even picture's are 0.
    """
    even = np.full((64, 64, 3), 100, np.uint8)
    edge = even.copy()
    edge[:, 32:] = 110
    middle = (30 / (100 + 30) + 30 / (400 + 30)) / 2  # both sizes see it
    beside = (1 + 30 / (100 + 30)) / 2  # the larger one alone

    def curve(likeness):
        return 1 / (1 + math.exp(-ALPHA * likeness))

    # Seven places: 4, 2 times 3, and 2 times 2 and 1, where nothing differs; colours, all alike, weigh half of them.
    mean = (4 * curve(middle) + 6 * curve(beside) + 6 * curve(1) + 8 * curve(1)) / 24
    by_hand = (math.log(mean / (1 - mean)) / ALPHA) ** 2
    assert by_hand == pytest.approx(0.3235, abs=1e-4)
    assert haarpsi(edge, even) == pytest.approx(by_hand, rel=1e-9)
    turned = (edge.swapaxes(0, 1), even)
    assert haarpsi(*turned) == pytest.approx(by_hand, rel=1e-9)


def test_equal_pictures_are_alike_and_even_ones_too():
    assert haarpsi(PHOTO, PHOTO) == pytest.approx(1)
    even = np.zeros((16, 16, 3), np.uint8)
    assert haarpsi(even, even) == haarpsi(even, even + 1) == 1


def test_it_does_not_matter_which_picture_is_which():
    assert haarpsi(PHOTO, noisy(20)) == pytest.approx(haarpsi(noisy(20), PHOTO))


@pytest.mark.parametrize(("worse", "degrees"), [(noisy, (2, 8, 20, 50)), (soft, (0.6, 1.2, 2, 4))])
def test_more_is_worse(worse, degrees):
    found = [haarpsi(PHOTO, worse(degree)) for degree in degrees]
    assert found == sorted(found, reverse=True)
    assert 1 > found[0] > 0.98
    assert 0.2 < found[-1] < 0.7


def test_a_shift_of_all_levels_counts_less_than_lost_detail_of_the_same_psnr():
    softened = soft(2)
    shift = math.sqrt(np.mean((softened.astype(float) - PHOTO) ** 2))
    assert shift > 9
    lighter = (PHOTO + shift).round().clip(0, 255).astype(np.uint8)
    assert haarpsi(PHOTO, lighter) > 0.99 > 0.85 > haarpsi(PHOTO, softened)


def test_lost_colour_is_seen():
    grey = np.repeat(PHOTO.mean(axis=2, keepdims=True).round().astype(np.uint8), 3, axis=2)
    assert haarpsi(PHOTO, grey) < 0.6


def test_odd_sizes_and_clips():
    odd = PHOTO[:33, :51]
    assert haarpsi(odd, odd) == pytest.approx(1)
    clip = np.stack([PHOTO, PHOTO])
    other = np.stack([PHOTO, noisy(20)])
    assert haarpsi_of_clips(other, clip) == pytest.approx((1 + haarpsi(noisy(20), PHOTO)) / 2)
