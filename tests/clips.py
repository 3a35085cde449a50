"""Small clips, and what an MP4 holds."""

import av
import numpy as np
import torch

from diffusers_helper.media.frames import rgb_frames

HEIGHT, WIDTH = 32, 48


def clip(frames, seed=0, batch=1, height=HEIGHT, width=WIDTH):
    """Random pixels, some outside -1..1 as a decoder gives them."""
    return torch.randn(batch, 3, frames, height, width, generator=torch.Generator().manual_seed(seed))


def flat_clip(*colours, frames=4, height=HEIGHT, width=WIDTH):
    """One plain video for each colour (r, g, b in 0..255)."""
    values = torch.tensor(colours, dtype=torch.float32) / 127.5 - 1
    return values[:, :, None, None, None].expand(-1, -1, frames, height, width)


def decoded(path):
    """All frames as RGB, read as BT.709 with limited range."""
    with av.open(path) as container:
        return np.stack(
            [frame.to_ndarray(format="rgb24", src_colorspace="ITU709") for frame in container.decode(video=0)]
        )


def shown(video):
    return np.stack(list(rgb_frames(video)))


def boxes(path):
    """Names of the file's top-level boxes, in order (ISO 14496-12)."""
    data, names, position = path.read_bytes(), [], 0
    while position < len(data):
        names.append(data[position + 4 : position + 8].decode())
        position += int.from_bytes(data[position : position + 4], "big")
    return names


def packets(path):
    """(pts, dts, key frame, duration) of every packet in decoding order, in frames at 30 per second."""
    with av.open(path) as container:
        return [
            (packet.pts * packet.time_base * 30, packet.dts * packet.time_base * 30, packet.is_keyframe,
             packet.duration * packet.time_base * 30)
            for packet in container.demux(video=0) if packet.pts is not None
        ]  # fmt: skip
