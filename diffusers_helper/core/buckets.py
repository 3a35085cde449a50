"""Which size a photo is sampled at: the bucket whose shape is nearest to the photo's."""

from __future__ import annotations

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.messages import Message
from diffusers_helper.core.request import GenerationRequest

_LANDSCAPE = {
    128: [(96, 160), (112, 144), (128, 128)],
    256: [(192, 320), (224, 288), (256, 256)],
    384: [(256, 512), (320, 448), (384, 384)],
    512: [(352, 704), (384, 640), (448, 576), (512, 512)],
    768: [(512, 1024), (576, 896), (640, 832), (704, 768), (768, 768)],
}
BUCKETS: dict[int, list[tuple[int, int]]] = {
    base: [*sizes, *((width, height) for height, width in reversed(sizes) if height != width)]
    for base, sizes in _LANDSCAPE.items()
}
"""For each base the (height, width) pairs in pixels, from wide to tall. The order matters: the later one wins a tie."""
BUCKETS[640] = [
    (416, 960), (448, 864), (480, 832), (512, 768), (544, 704), (576, 672), (608, 640),
    (640, 608), (672, 576), (704, 544), (768, 512), (832, 480), (864, 448), (960, 416),
]  # fmt: skip


DEFAULT_RESOLUTION = 640
"""The base that the published models were trained at."""
RATIOS = {"16:9": (9, 16), "9:16": (16, 9), "1:1": (1, 1), "4:3": (3, 4), "3:4": (4, 3)}
"""Height and width of each shape."""


FAR = 2
"""How many times larger or smaller an area is that models were not trained at."""


def is_far(pixels: int, trained_at: int) -> bool:
    """Tell whether a frame of so many pixels is far from the size that models were trained at, `trained_at` squared."""
    return not 1 / FAR <= pixels / trained_at**2 <= FAR


def video_size(request: GenerationRequest, photo: tuple[int, int]) -> tuple[int, int]:
    """Return height and width of the video of a request whose resolution is known, for a photo of such a size."""
    if request.width is not None and request.height is not None:
        return request.height, request.width
    assert request.resolution is not None, "the model folder has one"
    return find_nearest_bucket(*RATIOS.get(request.shape, photo), request.resolution)


def find_nearest_bucket(h: int, w: int, resolution: int = 640) -> tuple[int, int]:
    """Return the bucket (height, width) of base `resolution` nearest in shape to a picture of `h` x `w` pixels.

    Nearest means least `|h * bucket_width - w * bucket_height|`. Raises SettingsError for a base without buckets.
    """
    try:
        buckets = BUCKETS[resolution]
    except KeyError:
        raise SettingsError(
            Message("There is no size {size}; choose one of {sizes}.", size=resolution, sizes=sorted(BUCKETS))
        ) from None
    return min(reversed(buckets), key=lambda bucket: abs(h * bucket[1] - w * bucket[0]))
