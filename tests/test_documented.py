"""Numbers that the documentation promises, read from its text, against the constants that keep them."""

import re
from pathlib import Path

import pytest

from diffusers_helper.app import launch, supervisor
from diffusers_helper.gradio.door.sign_in import SESSIONS_PER_USER
from diffusers_helper.gradio.door.uploads import Uploads
from diffusers_helper.loading import embedding_cache
from diffusers_helper.service import health, login_throttle, logs
from diffusers_helper.service.access import MEGABYTE, Access

DOCS = Path(__file__).parents[1]
DEPLOY, README = "docs/deploy.md", "README.md"
UPLOADS = Uploads(Path())
NUMBERS = {"three": 3, "ten": 10}


@pytest.mark.parametrize(
    ("page", "sentence", "values"),
    [
        (DEPLOY, r"no sign of life for (\d+) minutes", [health.HANG_SECONDS / 60]),
        (README, r"`cache/embeddings` \(at most (\d+) MB", [embedding_cache.LIMIT_BYTES / MEGABYTE]),
        (
            DEPLOY,
            r"`output_PORT.log` \((\d+) MB, then `.1` to `.(\d+)`\)",
            [supervisor.LOG_BYTES / 1e6, supervisor.LOGS],
        ),
        (DEPLOY, r"`logs/PORT`.*files of (\d+) MB, (\d+) MB in all", [logs.FILE_BYTES / 1e6, logs.FOLDER_BYTES / 1e6]),
        (DEPLOY, r"`--max-upload (\d+)` \(MB\)", [Access.max_upload / MEGABYTE]),
        (
            DEPLOY,
            r"at most (\w+) days.* has (\d+) GB and (\d+) of them;.* All together have (\d+) GB and ([\d,]+);",
            [
                UPLOADS.max_age / 86400,
                UPLOADS.owner_bytes / 1e9,
                UPLOADS.owner_count,
                UPLOADS.max_bytes / 1e9,
                UPLOADS.max_count,
            ],
        ),
        (DEPLOY, r"one of them may have (\w+) jobs waiting", [launch.JOBS_PER_OWNER]),
        (DEPLOY, r"end after (\d+) hours \(`--session-hours`\)", [Access.session_hours]),
        (DEPLOY, r"(\d+) sessions of one user", [SESSIONS_PER_USER]),
        (
            DEPLOY,
            r"After (\w+) failures of a user from one network",
            [login_throttle.FREE_ATTEMPTS],
        ),
        (
            DEPLOY,
            r"after (\w+) of one network or of one user from networks that are new to them",
            [login_throttle.FREE_FAILURES],
        ),
        (
            DEPLOY,
            r"up to (\d+) s; (\d+) minutes without one",
            [login_throttle.LONGEST_PAUSE, login_throttle.FORGET_SECONDS / 60],
        ),
    ],
)
def test_a_promised_number_is_kept(page, sentence, values):
    found = re.search(sentence, " ".join((DOCS / page).read_text().split()))
    assert found, f"{page} says nothing like it"
    assert [NUMBERS.get(word) or float(word.replace(",", "")) for word in found.groups()] == values
