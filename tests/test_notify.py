"""Telling the operator's address: what is sent, what never is, and that no video waits for it."""

import json
import logging
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.events import Finished
from diffusers_helper.core.messages import ENGLISH, Message, language
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.jobs.job import new_job_id
from diffusers_helper.jobs.manager import JobManager
from diffusers_helper.jobs.progress import first_snapshot
from diffusers_helper.jobs.record import JobRecord
from diffusers_helper.jobs.worker import WorkerHooks
from diffusers_helper.media.inputs import JobInputs
from diffusers_helper.service.config import RuntimeConfig
from diffusers_helper.service.notify import MOST_WAITING, Notifier
from tests.fakes import wait_for

SECRET = "a-lion-of-mine"
REQUEST = GenerationRequest(prompt=SECRET, seconds=2, seed=3)


def ended(state="done", **more):
    record = JobRecord(new_job_id(), REQUEST)
    return first_snapshot(record, state=state, started=10.0, finished=72.0, video=f"/out/{SECRET}.mp4", **more)


class Sent(list):
    """Notifications, as a `Post`: `status` is answered, `fault` raised; nothing is answered before `gate` is set."""

    def __init__(self):
        super().__init__()
        self.gate, self.status, self.fault = threading.Event(), 200, None
        self.gate.set()

    def __call__(self, url, body, headers):
        self.append((url, body, headers))
        assert self.gate.wait(60)
        if self.fault is not None:
            raise self.fault
        return self.status


@pytest.mark.parametrize(
    ("url", "form", "ntfy"),
    [
        ("https://ntfy.sh/topic", "auto", True),
        ("http://ntfy.example.org/topic", "auto", True),
        ("http://127.0.0.1:80/ntfy", "auto", False),
        ("https://example.org/hook", "auto", False),
        ("https://example.org/hook", "ntfy", True),
        ("https://ntfy.sh/topic", "json", False),
    ],
)
def test_a_webhook_gets_json_and_ntfy_a_line(url, form, ntfy):
    sent, job = Sent(), ended()
    Notifier(url, form, ENGLISH, sent).tell(job)
    wait_for(lambda: sent)
    [(to, body, headers)] = sent
    text = f"A video of {job.total_frames / 30:.1f} s is done after 62 s."
    assert to == url
    if ntfy:
        assert body.decode() == text
        assert headers["Title"] == "FramePack"
    else:
        assert headers["Content-Type"] == "application/json"
        told = json.loads(body)
        assert (told["state"], told["took"], told["text"], told["variant"]) == ("done", 62.0, text, "original")
    assert all(value.isascii() for value in headers.values())


@pytest.mark.parametrize("form", ["json", "ntfy"])
@pytest.mark.parametrize("state", ["done", "failed"])
def test_no_prompt_no_file_and_no_id_is_told(form, state):
    sent, job = Sent(), ended(state, error=Message("The file {path} cannot be written.", path=f"/out/{SECRET}.mp4"))
    Notifier("http://127.0.0.1/x", form, language("ja"), sent).tell(job)
    wait_for(lambda: sent)
    [(_, body, _)] = sent
    assert SECRET.encode() not in body
    assert job.id.encode() not in body


@pytest.mark.parametrize("state", ["cancelled", "interrupted", "running", "queued"])
def test_what_its_user_ended_is_not_told(state):
    sent, notifier = Sent(), None
    notifier = Notifier("http://127.0.0.1/x", "json", ENGLISH, sent)
    notifier.tell(ended(state))
    notifier.tell(ended())
    wait_for(lambda: sent)
    assert [json.loads(body)["state"] for _, body, _ in sent] == ["done"]


@pytest.mark.parametrize("how", ["fault", "status"])
def test_a_fault_is_a_line_in_the_log_without_the_address_and_the_next_one_is_sent(how, caplog):
    sent = Sent()
    if how == "fault":
        sent.fault = OSError("http://user:pass@127.0.0.1/topic-secret refused")
    else:
        sent.status = 404
    notifier = Notifier("http://user:pass@127.0.0.1/topic-secret", "json", ENGLISH, sent)
    with caplog.at_level(logging.DEBUG):
        notifier.tell(ended())
        wait_for(lambda: "127.0.0.1" in caplog.text)
        notifier.tell(ended())
        wait_for(lambda: len(sent) == 2)
    assert "secret" not in caplog.text
    assert "pass" not in caplog.text
    assert SECRET not in caplog.text


def test_an_address_that_does_not_answer_holds_nothing_up(caplog):
    sent = Sent()
    sent.gate.clear()
    notifier = Notifier("http://127.0.0.1/x", "json", ENGLISH, sent)
    for _ in range(MOST_WAITING + 5):
        notifier.tell(ended())
    assert "is dropped" in caplog.text
    sent.gate.set()
    wait_for(lambda: len(sent) >= MOST_WAITING)


def run_jobs(on_end, tmp_path):
    """Two jobs, one of which fails; their last states."""

    def run(job):
        if job.request.seed == 1:
            raise SettingsError(Message("Give the preset a name."))
        yield Finished(tmp_path / "a.mp4", 37)

    manager = JobManager(run, hooks=WorkerHooks(on_end=on_end))
    ids = [manager.submit(JobInputs(GenerationRequest(seed=seed), {})) for seed in (1, 2)]
    states = [manager.wait(job, 60).state for job in ids]
    assert manager.close(60)
    return states


def test_every_end_of_a_job_is_told_once(tmp_path):
    told = []
    assert run_jobs(told.append, tmp_path) == ["failed", "done"]
    assert [job.state for job in told] == ["failed", "done"]
    assert told[1].video
    assert told[0].error == "Give the preset a name."


def test_a_fault_in_telling_ends_no_worker(tmp_path):
    def fails(_job):
        raise ZeroDivisionError

    assert run_jobs(fails, tmp_path) == ["failed", "done"]


@pytest.mark.parametrize("status", [200, 302])
def test_it_is_sent_over_http_and_no_redirection_is_followed(status):
    seen = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self):
            seen.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            self.send_response(status)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_GET(self):
            self.do_POST()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Hook) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        notifier = Notifier(f"http://127.0.0.1:{server.server_port}/hook", "auto", ENGLISH)
        notifier.tell(ended())
        notifier.tell(ended())
        wait_for(lambda: len(seen) == 2)
        server.shutdown()
        thread.join(60)
    assert [path for path, _ in seen] == ["/hook", "/hook"]


@pytest.mark.parametrize(
    "url", ["ntfy.sh/topic", "file:///etc/passwd", "ftp://x/y", "http://", "http://[", "http://a:b"]
)
def test_only_an_address_of_the_web_is_taken(url):
    with pytest.raises(SettingsError, match="http:// or https://"):
        RuntimeConfig.load(notify_url=url)
    assert RuntimeConfig.load(notify_url="https://ntfy.sh/topic").notify_url == "https://ntfy.sh/topic"
