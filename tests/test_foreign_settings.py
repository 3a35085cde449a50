"""Settings under other programs' names: what they become, and that nothing of our own is touched."""

import pytest

from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.media.foreign_settings import NAMES, adopted


def test_every_name_leads_to_a_setting():
    assert set(NAMES.values()) <= GenerationRequest.model_fields.keys()
    assert not NAMES.keys() & GenerationRequest.model_fields.keys()


@pytest.mark.parametrize(
    ("found", "settings", "words"),
    [
        ({"gs": 10.0, "cfg": 1, "rs": 0}, {"guidance_scale": 10.0, "cfg_scale": 1, "cfg_rescale": 0}, []),
        ({"gs": 10.0, "guidance_scale": 3}, {"gs": 10.0, "guidance_scale": 3}, []),  # ours counts, theirs is named
        ({"latent_window_size": 9}, {}, []),
        ({"latent_window_size": 12}, {"latent_window_size": 12}, []),
        ({"model_type": "F1"}, {"variant": "f1"}, []),
        ({"model_type": "Video"}, {"model_type": "Video"}, []),
        ({"model_type": ["F1"]}, {"model_type": ["F1"]}, []),
        ({"model_type": "F1", "variant": "original"}, {"model_type": "F1", "variant": "original"}, []),
        ({"resolutionW": 640}, {"resolution": 640}, []),
        ({"resolutionW": 700, "resolutionH": 400}, {"resolution": 640, "resolutionH": 400}, ["700 became 640"]),
        ({"resolution": 720}, {"resolution": 768}, ["720 became 768"]),
        ({"resolution": 512, "resolutionW": 640}, {"resolution": 512, "resolutionW": 640}, []),
        ({"resolutionW": "wide", "resolution": None}, {"resolutionW": "wide", "resolution": None}, []),
        ({"prompt": "[0s-2s: a] [2s: b]"}, {"prompt": "[0s-2s: a] [2s: b]"}, []),
        ({"prompt": "[1.5s: a]"}, {"prompt": "[1.5s: a]"}, []),
        ({"prompt": "[a: b] at 2s: c [5 stars: d]"}, {"prompt": "[a: b] at 2s: c [5 stars: d]"}, []),
        ({"prompt": 7, "other": 1}, {"prompt": 7, "other": 1}, []),
    ],
)
def test_what_is_adopted(found, settings, words):
    taken, notes = adopted(found)
    assert taken == settings
    assert len(notes) == len(words)
    assert all(word in note for word, note in zip(words, notes, strict=True))
