import pytest

from diffusers_helper.core.buckets import BUCKETS, find_nearest_bucket
from diffusers_helper.core.errors import SettingsError


@pytest.mark.parametrize(
    ("height", "width", "base", "bucket"),
    [
        (1000, 1000, 640, (640, 608)),  # a tie of 608 x 640 and 640 x 608: the later one
        (1080, 1920, 640, (480, 832)),
        (1920, 1080, 640, (832, 480)),
        (3000, 4000, 640, (544, 704)),
        (4000, 3000, 640, (704, 544)),
        (416, 960, 640, (416, 960)),
        (100, 400, 640, (416, 960)),  # beyond the widest
        (400, 100, 640, (960, 416)),
        (576, 672, 640, (576, 672)),
        (640, 608, 640, (640, 608)),
        (1, 1, 128, (128, 128)),
        (9, 16, 128, (96, 160)),
        (16, 9, 256, (320, 192)),
        (3, 4, 384, (320, 448)),
        (2, 1, 512, (704, 352)),
        (2, 3, 768, (576, 896)),
    ],
)
def test_the_nearest_bucket(height, width, base, bucket):
    assert find_nearest_bucket(height, width, base) == bucket


def test_the_base_is_640_by_default():
    assert find_nearest_bucket(832, 480) == (832, 480)


def test_ties_go_to_the_later_bucket_whatever_the_scale():
    for height, width, base in [(1, 1, 640), (7, 7, 640), (4096, 4096, 640)]:
        assert find_nearest_bucket(height, width, base) == (640, 608)


@pytest.mark.parametrize("base", BUCKETS)
def test_buckets_are_usable_and_mirrored(base):
    sizes = BUCKETS[base]
    assert all(height % 16 == width % 16 == 0 for height, width in sizes)
    assert [(width, height) for height, width in reversed(sizes)] == sizes
    assert sizes == sorted(sizes, key=lambda size: size[0] / size[1])
    assert all(find_nearest_bucket(*size, base) == size for size in sizes)


def test_an_unknown_base_is_refused_with_the_choices():
    with pytest.raises(SettingsError, match=r"640, 768"):
        find_nearest_bucket(1, 1, 100)
