"""What the buttons of the history and of the stage ask, without a browser."""

from types import SimpleNamespace

import pytest

from diffusers_helper.core.messages import ENGLISH
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.gradio.api.video_edits import VideoReader
from diffusers_helper.gradio.client_jobs import new_client_id
from diffusers_helper.gradio.create.recipe import RecipeHandlers
from diffusers_helper.gradio.history.actions import Means, VideoActions
from diffusers_helper.gradio.history.handlers import HistoryHandlers
from diffusers_helper.history.library import History
from diffusers_helper.model_files.lora_library import LoraLibrary
from tests.test_history_library import add
from tests.test_unfinished import SECONDS, Life


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """Asks for something to be done with a finished video of this computer's."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    life = Life(tmp_path / "outputs")
    job = add(
        life.store, 1, client_id="", request={"start": "colour"}, recipe=GenerationRequest(start="colour", seed=1)
    )
    history = History(life.store, life.manager)
    means = Means(history, life.manager, RecipeHandlers(), VideoReader(), LoraLibrary(()))
    actions = VideoActions(means, HistoryHandlers(history), ENGLISH)
    scope = {
        "type": "http",
        "path": "/",
        "query_string": b"",
        "client": ("127.0.0.1", 1),
        "headers": [(b"host", b"localhost")],
    }
    request = SimpleNamespace(username=None, request=SimpleNamespace(scope=scope), client=None)

    def ask(client_id, action):
        event = SimpleNamespace(_data={"action": action, "id": job})
        return actions.use_on_stage(client_id, 2.4, event, request), life.manager.jobs()

    yield ask
    life.gate.set()
    history.close()
    assert life.manager.close(SECONDS)


@pytest.mark.parametrize("action", ["new_take", "extend"])
def test_a_video_that_is_made_of_another_one_is_somebody_s(asked, action):
    for nobody in (None, "", "me", 7):
        answer, jobs = asked(nobody, action)
        assert "reload it" in answer["message"]
        assert jobs == []
    ann = new_client_id()
    answer, [job] = asked(ann, action)
    assert (answer["message"], answer["shown"], job.client_id) == ("", job.id, ann)


def test_the_last_frame_is_the_photo_and_changes_nothing_else(asked):
    answer, _ = asked(new_client_id(), "last_frame")
    assert answer.keys() == {"message", "saved", "told", "image"}
    assert answer["image"]["path"].endswith("photo.png")
