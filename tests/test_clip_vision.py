import numpy as np
import pytest
import torch
from PIL import Image
from transformers import SiglipVisionModel

from diffusers_helper.encoders.vision import hf_clip_vision_encode
from tests.tiny import TINY, redux_of, tiny_vision


def picture(height, width):
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(96, 96), (128, 128), (96, 160), (3, 5), (3, 3)])
def test_a_picture_is_squeezed_into_the_encoder_s_square_and_scaled_to_minus_1_to_1(size):
    image = picture(*size)
    processor, encoder = tiny_vision()
    side = encoder.config.image_size
    square = Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(square)).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        expected = encoder(pixels).last_hidden_state

    output = hf_clip_vision_encode(image, processor, encoder)

    assert not output.last_hidden_state.requires_grad
    torch.testing.assert_close(output.last_hidden_state, expected, atol=1e-5, rtol=1e-5)


def test_the_encoder_computes_in_its_own_dtype():
    processor, encoder = tiny_vision()
    half = SiglipVisionModel.from_pretrained(redux_of(TINY) / "image_encoder", dtype=torch.bfloat16)
    image = picture(128, 128)
    states = hf_clip_vision_encode(image, processor, half).last_hidden_state
    assert states.dtype == torch.bfloat16
    expected = hf_clip_vision_encode(image, processor, encoder).last_hidden_state
    assert (states.float() - expected).std() < 0.03 * expected.std()


@pytest.mark.parametrize(
    "image",
    [
        picture(8, 8).astype(np.float32) / 255,
        picture(8, 8)[..., 0],
        picture(8, 8).transpose(2, 0, 1),
        np.zeros((8, 8, 4), dtype=np.uint8),
    ],
)
def test_other_arrays_are_refused(image):
    with pytest.raises(ValueError, match=r"must be \(H, W, 3\) uint8"):
        hf_clip_vision_encode(image, *tiny_vision())
