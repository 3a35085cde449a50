"""The whole way of one person through the page, on the tiny model."""

import pytest

from tests.journey import travel

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(1800)]


def test_from_an_empty_page_to_a_directed_video_two_takes_and_its_settings_elsewhere(chromium, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    stops = travel(chromium, tmp_path, pictures)
    assert [name for name, _ in stops] == [
        "empty",
        "form",
        "timeline",
        "running",
        "done",
        "history",
        "compared",
        "extended",
        "restored",
    ]
