import io

import pytest
import torch
from PIL import Image

from diffusers_helper.jobs.previewer import LatentPreviewer


def size_of(jpeg):
    with Image.open(io.BytesIO(jpeg)) as picture:
        return picture.format, picture.size


def test_a_preview_is_a_strip_of_the_sections_frames():
    assert size_of(LatentPreviewer()(torch.randn(1, 16, 9, 8, 12))) == ("JPEG", (9 * 12, 8))


def test_another_guess_is_another_picture():
    previewer = LatentPreviewer()
    assert previewer(torch.zeros(1, 16, 1, 8, 8)) != previewer(torch.ones(1, 16, 1, 8, 8))


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_on_cuda_a_picture_comes_later_and_nothing_waits_for_the_device():
    previewer, latents = LatentPreviewer(), torch.randn(1, 16, 9, 8, 12, device="cuda")
    previewer(latents)  # the first use of a kernel may wait
    torch.cuda.synchronize()
    previewer = LatentPreviewer()
    assert previewer(latents) is None
    torch.cuda.synchronize()
    try:
        torch.cuda.set_sync_debug_mode("error")
        torch.cuda._sleep(10**9)
        assert size_of(previewer(latents) or b"") == ("JPEG", (9 * 12, 8))
        assert previewer(latents) is None  # the sleep is not over
    finally:
        torch.cuda.set_sync_debug_mode("default")
