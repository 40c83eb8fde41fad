"""A hub on loopback: repositories in memory, and the faults that real ones have. Counts what was asked of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from tests.stand_in import listening

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """files: name -> content. gated: who may load needs `token`. cut: bodies end after so many bytes, once for each
    name in it. wrong: names whose content comes altered, so many times."""

    files: dict[str, bytes]
    repository: str = "some/model"
    gated: bool = False
    token: str = "hf_secret"
    cut: dict[str, int] = field(default_factory=dict)
    wrong: dict[str, int] = field(default_factory=dict)
    url: str = ""
    asked: list[tuple[str, str, str]] = field(default_factory=list)  # method, path, Range

    def downloads(self) -> list[tuple[str, str]]:
        """(file, range) of each body that was asked for."""
        return [
            (path.rsplit("/", 1)[1], held)
            for method, path, held in self.asked
            if method == "GET" and "/resolve/" in path
        ]


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """The hub at `hub.url`, until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            """Quiet."""

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            path = self.path.partition("?")[0]
            hub.asked.append((self.command, path, self.headers.get("Range", "")))
            if not path.startswith((f"/api/models/{hub.repository}", f"/{hub.repository}/resolve/")):
                return self._error(404, "RepoNotFound")
            if path.endswith("/auth-check") or "/resolve/" in path:
                allowed = self.headers.get("Authorization") == f"Bearer {hub.token}"
                if hub.gated and not allowed:
                    return self._error(403, "GatedRepo")
            if path.startswith("/api/"):
                return self._send(
                    200, json.dumps(self._info()).encode() if "auth-check" not in path else b"{}", {}, body
                )
            return self._file(path.rsplit("/", 1)[1], body)

        def _info(self) -> dict[str, object]:
            return {
                "id": hub.repository,
                "sha": COMMIT,
                "gated": "manual" if hub.gated else False,
                "siblings": [
                    {"rfilename": name, "size": len(content), **identity(name, content)}
                    for name, content in hub.files.items()
                ],
            }

        def _file(self, name: str, body: bool) -> None:
            if name not in hub.files:
                return self._error(404, "EntryNotFound")
            content = hub.files[name]
            tag = hashlib.sha256(content).hexdigest()
            headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{tag}"', "Accept-Ranges": "bytes"}
            if body and hub.wrong.get(name, 0) > 0:
                hub.wrong[name] -= 1
                content = bytes(255 - byte for byte in content)
            start = int((self.headers.get("Range") or "bytes=0-")[6:].partition("-")[0])
            if body and name in hub.cut:
                return self._cut(content[start:], hub.cut.pop(name), headers)
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            return self._send(206 if start else 200, content[start:], headers, body)

        def _cut(self, content: bytes, length: int, headers: dict[str, str]) -> None:
            self.send_response(200)
            for header, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(header, value)
            self.end_headers()
            self.wfile.write(content[:length])
            self.close_connection = True

        def _send(self, status: int, content: bytes, headers: dict[str, str], body: bool) -> None:
            self.send_response(status)
            for header, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(header, value)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def _error(self, status: int, code: str) -> None:
            self._send(status, b"{}", {"X-Error-Code": code}, self.command != "HEAD")

    with listening(Handler) as hub.url:
        yield hub


def identity(name: str, content: bytes) -> dict[str, object]:
    """How the hub names a file's content: sha256 for large ones, git's blob id for all."""
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    if not name.endswith((".safetensors", ".pt", ".bin")):
        return {"blobId": blob}
    lfs = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return {"blobId": blob, "lfs": lfs}
