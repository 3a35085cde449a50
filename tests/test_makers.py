"""How a video is begun, or goes on, with the models of a process; nothing is computed here."""

import json

import pytest
from PIL import Image

from diffusers_helper.app.makers import Call, OwnModels, begun, env_change
from diffusers_helper.core.plan import START
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.generation.sampling import environment_of
from diffusers_helper.loading.components import Components
from diffusers_helper.media.inputs import JobInputs
from diffusers_helper.media.partials import ENVIRONMENT, section_file
from diffusers_helper.media.photo import Photo
from diffusers_helper.model_files import LocalFolder
from tests.tiny import TINY_FOLDER

INPUTS = JobInputs(GenerationRequest(seed=1, variant="f1"), {START: Photo(Image.new("RGB", (64, 64)), "grey.png", ())})


@pytest.fixture(scope="module")
def components():
    return Components(LocalFolder(TINY_FOLDER), "cpu")


@pytest.mark.parametrize("allowed", [True, False])
@pytest.mark.parametrize("changed", [True, False])
def test_what_was_begun_elsewhere_is_begun_anew_unless_that_is_allowed(tmp_path, components, allowed, changed):
    environment = environment_of(components, INPUTS.request, ["f1"]) | ({"torch": "0.1"} if changed else {})
    (tmp_path / ENVIRONMENT).write_text(json.dumps(environment))
    (tmp_path / section_file(0)).touch()
    call = Call(INPUTS, tmp_path / "video", tmp_path, metadata=True, allow_env_change=allowed)
    assert ("with torch 0.1" in env_change(call, components)) is changed
    assert begun(call, components, lambda: None, generate=lambda inputs, **how: (inputs, how))[0] is INPUTS
    assert (tmp_path / ENVIRONMENT).exists() is (tmp_path / section_file(0)).exists() is (allowed or not changed)


def test_a_process_with_its_own_models_tells_all_that_a_video_depends_on(components):
    maker = OwnModels(lambda: components, components.device)
    found = maker.environment({"gpus": "2", "linear layers": "fp8"}, INPUTS.request, ["f1"])
    assert found == components.environment.of_video("f1"), "nothing is as it was elsewhere"
    assert maker.gpus == ()
