"""A Hugging Face hub on this machine, for the real client: repositories over HTTP, with faults on request."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

COMMIT, NEWER_COMMIT = "a" * 40, "b" * 40


@dataclass
class FakeHub:
    """What the hub has and what it was asked.

    Attributes:
        commits: by commit, {repository: {path: bytes}}; the last one is `main`.
        break_off: paths whose first download ends after that many bytes.
        garble: paths whose next downloads, so many of them, have a wrong byte.
        refuse: repositories that are answered with that status.
        requests: (method, path in the repository or address, headers) in order.
        sent: bytes of files that were sent.
    """

    commits: dict[str, dict[str, dict[str, bytes]]]
    break_off: dict[str, int] = field(default_factory=dict)
    garble: dict[str, int] = field(default_factory=dict)
    refuse: dict[str, int] = field(default_factory=dict)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    sent: int = 0
    url: str = ""

    @property
    def downloads(self) -> list[str]:
        """Paths of the files that were fetched, in order."""
        return [path for method, path, _ in self.requests if method == "GET" and not path.startswith("/api/")]


@contextmanager
def fake_hub(repositories: dict[str, dict[str, bytes]]) -> Iterator[FakeHub]:
    """Serve `repositories`, {id: {path: bytes}}, at `.url`."""
    hub = FakeHub({COMMIT: repositories})
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            words = urlsplit(self.path).path.strip("/").split("/")
            refused = next((hub.refuse[name] for name in hub.refuse if name in self.path), None)
            if self.asks_for_unknown_commit(words):
                refused = 404
            if refused:
                hub.requests.append((self.command, self.path, dict(self.headers)))
                return self.send(b"{}", {"Content-Type": "application/json"}, status=refused, body=body)
            if words[:2] == ["api", "models"]:
                hub.requests.append((self.command, self.path, dict(self.headers)))
                return self.send(json.dumps(self.listing(*words[2:])).encode(), {"Content-Type": "application/json"})
            repository, _, revision, *path = "/".join(words[:2]), *words[2:]
            hub.requests.append((self.command, "/".join(path), dict(self.headers)))
            return self.send_file(repository, revision, "/".join(path), body)

        def asks_for_unknown_commit(self, words: list[str]) -> bool:
            return any(len(word) == 40 and word not in hub.commits for word in words)

        def listing(self, owner: str, name: str, kind: str = "revision", revision: str = "main", *_rest: str):
            commit = self.commit(revision)
            files = hub.commits[commit][f"{owner}/{name}"]
            if kind == "tree":
                return [
                    {"type": "file", "path": path, "size": len(data), "oid": digest(data)}
                    for path, data in files.items()
                ]
            siblings = [
                {"rfilename": path, "size": len(data), "blobId": digest(data), **lfs(path, data)}
                for path, data in files.items()
            ]
            return {"id": f"{owner}/{name}", "sha": commit, "siblings": siblings}

        def commit(self, revision: str) -> str:
            return list(hub.commits)[-1] if revision == "main" else revision

        def send_file(self, repository: str, revision: str, path: str, body: bool) -> None:
            commit = self.commit(revision)
            data = hub.commits[commit][repository][path]
            start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
            headers = {"ETag": f'"{etag(path, data)}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            stop = hub.break_off.pop(path, None) if body else None
            if body and hub.garble.get(path):
                hub.garble[path] -= 1
                data = data[:-1] + bytes([data[-1] ^ 1])
            hub.sent += len(data[start:stop]) if body else 0
            self.send(data[start:], headers, status=206 if start else 200, body=body, stop=stop)

        def send(self, data: bytes, headers: dict[str, str], status=200, body=True, stop=None) -> None:
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                self.wfile.write(data[:stop])
            self.close_connection = stop is not None

        def log_message(self, *_args: object) -> None:
            pass

    return Handler


def etag(path: str, data: bytes) -> str:
    """What the hub calls a file's content: large files are named by their SHA-256."""
    return hashlib.sha256(data).hexdigest() if path.endswith(".safetensors") else digest(data)


def lfs(path: str, data: bytes) -> dict[str, dict[str, object]]:
    """What the hub tells of a large file besides."""
    if not path.endswith(".safetensors"):
        return {}
    return {"lfs": {"sha256": etag(path, data), "size": len(data), "pointerSize": 134}}


def digest(data: bytes) -> str:
    """What names a file's content on the hub."""
    return hashlib.sha1(data).hexdigest()
