import subprocess
import sys
from pathlib import Path

import pytest

from diffusers_helper import utils
from diffusers_helper.core import files
from diffusers_helper.media import frames, photo, video

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("name", "original"),
    [
        ("save_bcthw_as_mp4", video.save_bcthw_as_mp4),
        ("crop_or_pad_yield_mask", frames.crop_or_pad_yield_mask),
        ("soft_append_bcthw", frames.soft_append_bcthw),
        ("resize_and_center_crop", photo.resize_and_center_crop),
        ("generate_timestamp", files.generate_timestamp),
    ],
)
def test_promised_names_are_the_real_functions(name, original):
    assert getattr(utils, name) is original
    assert name in utils.__all__


def test_other_names_are_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = utils.no_such_name


@pytest.mark.slow
def test_importing_it_loads_neither_torch_nor_codecs():
    code = "import sys; import diffusers_helper.utils; print(*{'torch', 'av', 'PIL', 'numpy'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.strip() == ""


@pytest.mark.slow
def test_photos_need_no_torch():
    code = "import sys; import diffusers_helper.media.photo; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.strip() == "False"
