import os
import resource
from io import BytesIO

import av
import numpy as np
import pytest
import torch
from PIL import Image

from diffusers_helper.core.errors import CancelledError, NumericsError, OutputError
from diffusers_helper.media.video import preview_jpeg, save_bcthw_as_mp4
from tests.clips import HEIGHT, WIDTH, boxes, clip, decoded, flat_clip, shown

# --- one file


@pytest.mark.parametrize(("fps", "crf"), [(30, 16), (24, 1), (29.97, 30), (25, 0), (30, 52), (30, 100), (30, -3)])
def test_what_is_written_plays_in_browsers(tmp_path, fps, crf):
    path = tmp_path / "video.mp4"
    save_bcthw_as_mp4(clip(5), path, fps=fps, crf=crf)
    with av.open(path) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        frames = list(container.decode(stream))
        assert stream.average_rate == pytest.approx(fps)
        assert container.duration / 1e6 == pytest.approx(5 / fps, abs=1e-3)
        assert (context.name, context.pix_fmt, context.profile) == ("h264", "yuv420p", "High")
        assert (context.width, context.height) == (WIDTH, HEIGHT)
        # 1 is BT.709 for all three; range 1 is limited (ITU-T H.273)
        assert (context.color_primaries, context.color_trc, context.colorspace, context.color_range) == (1, 1, 1, 1)
    assert len(frames) == 5
    assert boxes(path).index("moov") < boxes(path).index("mdat")
    assert os.listdir(tmp_path) == ["video.mp4"]


def test_more_compression_makes_a_smaller_file(tmp_path):
    sizes = []
    for crf in (1, 16, 30, 51):
        save_bcthw_as_mp4(clip(4), tmp_path / "video.mp4", crf=crf)
        sizes.append((tmp_path / "video.mp4").stat().st_size)
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 4


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (200, 120, 40)])
def test_colours_survive(tmp_path, colour):
    save_bcthw_as_mp4(flat_clip(colour), tmp_path / "video.mp4", crf=4)
    np.testing.assert_allclose(decoded(tmp_path / "video.mp4"), np.full((4, HEIGHT, WIDTH, 3), colour), atol=4)


def test_frames_come_in_order_and_upright(tmp_path):
    ramp = torch.zeros(1, 3, 6, HEIGHT, WIDTH)
    for index in range(6):
        ramp[:, :, index] = index / 3 - 1
    ramp[:, :, :, :16, :16] = -1  # the top left corner is black
    save_bcthw_as_mp4(ramp, tmp_path / "video.mp4", crf=4)
    np.testing.assert_allclose(decoded(tmp_path / "video.mp4"), shown(ramp), atol=6)


def test_a_batch_stands_side_by_side(tmp_path):
    save_bcthw_as_mp4(flat_clip((255, 0, 0), (0, 0, 255)), tmp_path / "video.mp4", crf=4)
    pixels = decoded(tmp_path / "video.mp4")
    assert pixels.shape == (4, HEIGHT, 2 * WIDTH, 3)
    np.testing.assert_allclose(pixels[0, 5, WIDTH // 2], (255, 0, 0), atol=4)
    np.testing.assert_allclose(pixels[0, 5, WIDTH + WIDTH // 2], (0, 0, 255), atol=4)


@pytest.mark.parametrize(("height", "width"), [(33, 48), (32, 47), (31, 51), (1, 1)])
def test_odd_sides_are_padded_by_one(tmp_path, height, width):
    save_bcthw_as_mp4(flat_clip((200, 120, 40), height=height, width=width), tmp_path / "video.mp4", crf=4)
    pixels = decoded(tmp_path / "video.mp4")
    assert pixels.shape[1:3] == (height + height % 2, width + width % 2)
    np.testing.assert_allclose(pixels[0, -1, -1], (200, 120, 40), atol=4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_are_taken(tmp_path, dtype):
    save_bcthw_as_mp4(flat_clip((255, 0, 128)).to(dtype), tmp_path / "video.mp4", crf=4)
    np.testing.assert_allclose(decoded(tmp_path / "video.mp4")[0, 5, 5], (255, 0, 128), atol=4)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_nan_and_infinity_stop_the_video(tmp_path, value, dtype):
    video = clip(3).to(dtype)
    video[0, 1, 2, 3, 4] = value
    with pytest.raises(NumericsError, match="NaN or infinite"):
        save_bcthw_as_mp4(video, tmp_path / "video.mp4")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("shape", [(3, 4, 8, 8), (1, 4, 4, 8, 8), (1, 1, 4, 8, 8)])
def test_other_shapes_are_a_value_error(tmp_path, shape):
    with pytest.raises(ValueError, match=r"\(B, 3, T, H, W\)"):
        save_bcthw_as_mp4(torch.zeros(shape), tmp_path / "video.mp4")


# --- what can go wrong on a disk


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "video.mp4"
    path.write_bytes(b"old")
    (tmp_path / "video.mp4.part").symlink_to("/dev/full")
    with pytest.raises(OutputError, match=r"video\.mp4 could not be written: the disk is full"):
        save_bcthw_as_mp4(clip(4), path)
    assert os.listdir(tmp_path) == ["video.mp4"]
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("missing", [1, 100, 5000, 20_000])
def test_a_file_that_cannot_be_written_to_its_end_is_no_file(tmp_path, missing):
    path = tmp_path / "video.mp4"
    save_bcthw_as_mp4(clip(8), path, crf=1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    room = path.stat().st_size - missing
    path.unlink()
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
        with pytest.raises(OutputError, match="File too large"):
            save_bcthw_as_mp4(clip(8), path, crf=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path) == []


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(OutputError, match=r"gone/video\.mp4 could not be written: its folder does not exist"):
        save_bcthw_as_mp4(clip(2), tmp_path / "gone" / "video.mp4")


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="its folder does not exist"):
        save_bcthw_as_mp4(clip(2), tmp_path / "file" / "video.mp4")


def test_writing_can_be_stopped_at_every_frame(tmp_path):
    calls = []

    def stop_at_the_third():
        calls.append(len(calls))
        if len(calls) == 3:
            raise CancelledError("stopped")

    with pytest.raises(CancelledError):
        save_bcthw_as_mp4(clip(9), tmp_path / "video.mp4", check=stop_at_the_third)
    assert len(calls) == 3
    assert os.listdir(tmp_path) == []


def test_preview_is_a_jpeg():
    pixels = np.full((40, 56, 3), (200, 120, 40), dtype=np.uint8)
    with Image.open(BytesIO(preview_jpeg(pixels))) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (56, 40))
        np.testing.assert_allclose(image.getpixel((9, 9)), (200, 120, 40), atol=4)
