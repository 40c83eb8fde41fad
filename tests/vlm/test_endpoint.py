"""A VLM behind a server: a real `vllm serve` answers as its weights do, and a faulty one is survived in time."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr, ValidationError
from vlm_helpers import KEY, picture, until

from models import catalog
from models.base import ModelCrashed, ModelTimeout, ModelUnavailable
from models.vlm.endpoint import Endpoint, EndpointSettings

FRAMES = [picture(0), picture(1, (256, 320)), picture(3, (600, 700))]
SECRET = "sk-nobody-may-read-this"


def endpoint(url: str, **settings: Any) -> Endpoint:
    model = Endpoint(catalog.find(KEY), EndpointSettings(url=url, **settings))
    model.load("cpu")
    return model


@dataclass
class Faulty:
    """A server that speaks as much of the interface as a question needs, and does to each answer what it is told."""

    faults: list[Callable[[BaseHTTPRequestHandler], bool]] = field(default_factory=list)
    likely: dict[str, float] = field(default_factory=lambda: {"Yes": -0.1, " no": -2.4, "Maybe": -3.0})
    elsewhere: Callable[[BaseHTTPRequestHandler], bool] | None = None  # what other paths get; None: 404
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    url: str = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.keys.append(handler.headers.get("Authorization", ""))
        if handler.path != "/v1/chat/completions" and self.elsewhere and self.elsewhere(handler):
            return None
        if handler.path == "/v1/models":
            return reply(handler, 200, {"data": [{"id": catalog.find(KEY).repository}]})
        if handler.path != "/v1/chat/completions":
            return reply(handler, 404, {})
        self.asked.append(json.loads(handler.rfile.read(int(handler.headers["Content-Length"]))))
        if self.faults and self.faults.pop(0)(handler):
            return None
        likely = [{"token": token, "logprob": value} for token, value in self.likely.items()]
        return reply(handler, 200, {"choices": [{"logprobs": {"content": [{"top_logprobs": likely}]}}]})


def reply(handler: BaseHTTPRequestHandler, status: int, body: Any) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


def status(code: int) -> Callable[[BaseHTTPRequestHandler], bool]:
    def fault(handler: BaseHTTPRequestHandler) -> bool:
        reply(handler, code, {"error": "told to"})
        return True

    return fault


def hang_up(handler: BaseHTTPRequestHandler) -> bool:
    handler.connection.shutdown(socket.SHUT_RDWR)
    return True


def garbage(handler: BaseHTTPRequestHandler) -> bool:
    reply(handler, 200, b"<html>a proxy's page</html>")
    return True


def no_probabilities(handler: BaseHTTPRequestHandler) -> bool:
    reply(handler, 200, {"choices": [{"message": {"content": "Yes"}}]})
    return True


def drip(handler: BaseHTTPRequestHandler) -> bool:
    """One byte now and then: no read ever times out, and the answer never comes."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.05)
    except OSError:
        return True


def served(faulty: Faulty, tls: ssl.SSLContext | None = None) -> Iterator[Faulty]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            faulty.answer(self)

        do_POST = do_GET  # noqa: N815  the library's name

        def log_message(self, format: str, *arguments: Any) -> None:
            """Silence."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that leave are the point
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    faulty.url = f"http{'s' if tls else ''}://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield faulty
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def server() -> Iterator[Faulty]:
    yield from served(Faulty())


def test_any_server_is_asked_for_its_most_likely_tokens(server: Faulty) -> None:
    model = endpoint(server.url)
    opinions = model.assess(FRAMES)
    assert [opinion.logit for opinion in opinions] == pytest.approx([2.3] * 3)
    body = server.asked[0]
    assert (body["max_tokens"], body["temperature"], body["top_logprobs"]) == (1, 0.0, 20)
    kinds = [part["type"] for part in body["messages"][-1]["content"]]
    assert kinds == ["text", "image_url", "text"]
    model.close()
    model.close()
    with pytest.raises(ModelUnavailable, match="not loaded"):
        model.assess(FRAMES)


@pytest.mark.parametrize("page", [b"<html>a proxy's page</html>", b"[]", b"{}"])
def test_a_server_that_answers_every_address_is_taken_for_one_without_a_tokenizer(server: Faulty, page: bytes) -> None:
    def tokenizer(handler: BaseHTTPRequestHandler) -> bool:
        if handler.path == "/tokenize":
            reply(handler, 200, page)
        return handler.path == "/tokenize"

    server.elsewhere = tokenizer
    model = endpoint(server.url)
    assert model.assess(FRAMES[:1])[0].logit == pytest.approx(2.3)
    model.close()


def test_a_list_of_models_that_is_none_is_said_and_leaves_no_thread(server: Faulty) -> None:
    server.elsewhere = lambda handler: reply(handler, 200, {"models": []}) or True
    threads = threading.active_count()
    with pytest.raises(ModelUnavailable, match="tells no models"):
        endpoint(server.url)
    until(lambda: threading.active_count() <= threads, 60, "the loop's thread has ended")


def test_a_side_that_is_not_among_the_most_likely_counts_as_the_least_of_them(server: Faulty) -> None:
    model = endpoint(server.url)
    server.likely = {"Yes": -0.1, "Maybe": -3.0}
    assert model.assess(FRAMES[:1])[0].logit == pytest.approx(2.9)
    server.likely = {"Maybe": -0.1}
    with pytest.raises(ModelCrashed, match="neither yes nor no, but one of Maybe"):
        model.assess(FRAMES[:1])
    model.close()


@pytest.mark.parametrize("fault", [status(503), status(429), hang_up])
def test_what_passes_is_tried_again(server: Faulty, fault: Callable[[BaseHTTPRequestHandler], bool]) -> None:
    model = endpoint(server.url, attempts=3)
    server.faults = [fault, fault]
    assert model.assess(FRAMES[:1])[0].logit == pytest.approx(2.3)
    assert len(server.asked) == 3
    server.faults = [fault] * 3
    with pytest.raises(ModelUnavailable):
        model.assess(FRAMES[:1])
    assert len(server.asked) == 6
    model.close()


@pytest.mark.parametrize(
    ("fault", "error", "says"),
    [
        (status(400), ModelUnavailable, "400 .*told to"),
        (status(401), ModelUnavailable, "401"),
        (garbage, ModelCrashed, "no JSON"),
        (no_probabilities, ModelCrashed, "without log-probabilities"),
    ],
)
def test_what_does_not_pass_is_not_tried_again(
    server: Faulty, fault: Callable[[BaseHTTPRequestHandler], bool], error: type[Exception], says: str
) -> None:
    model = endpoint(server.url)
    server.faults = [fault]
    with pytest.raises(error, match=says):
        model.assess(FRAMES[:1])
    assert len(server.asked) == 1
    model.close()


def test_nobody_waits_longer_than_agreed_however_the_server_drips(server: Faulty) -> None:
    model = endpoint(server.url, seconds=60.0)
    patient = model.settings
    model.settings = patient.model_copy(update={"seconds": 0.5})
    server.faults = [drip] * 3
    begun = time.monotonic()
    with pytest.raises(ModelTimeout, match=r"no answer within 0\.5 s"):
        model.assess(FRAMES)
    assert time.monotonic() - begun < 30.0, "it was the patience of the connection that ended"
    model.settings = patient
    assert model.assess(FRAMES[:1])[0].logit == pytest.approx(2.3), "the next question is not held up"
    model.close()


def test_the_key_is_sent_and_shown_nowhere(server: Faulty, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    model = endpoint(server.url, key=SecretStr(SECRET))
    model.assess(FRAMES[:1])
    assert set(server.keys) == {f"Bearer {SECRET}"}
    server.faults = [status(401)]
    with pytest.raises(ModelUnavailable) as refused:
        model.assess(FRAMES[:1])
    assert SECRET not in f"{caplog.text}{refused.value}{model.settings!r}{model.settings.model_dump_json()}"
    model.close()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"url": "http://example.org/v1", "key": SECRET}, "over https only"),
        ({"url": "https://user:password@example.org/v1"}, "no user, password or query"),
        ({"url": "ftp://example.org"}, "URL scheme should be 'http' or 'https'"),
    ],
)
def test_settings_that_give_a_secret_away_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says) as refused:
        EndpointSettings(**settings)
    assert SECRET not in str(refused.value)


def test_a_certificate_that_nobody_vouches_for_ends_it_and_one_that_is_trusted_does_not(tmp_path: Path) -> None:
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=local", "-days", "1"]
    made += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(made, cwd=tmp_path, check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    for server in served(Faulty(), tls):
        with pytest.raises(ModelUnavailable, match=r"(?i)certificate verify failed"):
            endpoint(server.url, key=SecretStr(SECRET))
        assert server.keys == [], "the key was sent to a server that nobody vouches for"
        model = endpoint(server.url, key=SecretStr(SECRET), ca_file=tmp_path / "cert.pem")
        assert model.assess(FRAMES[:1])[0].logit == pytest.approx(2.3)
        model.close()


def test_a_model_that_is_not_served_or_a_server_that_is_not_there_is_said_at_once(server: Faulty) -> None:
    with pytest.raises(ModelUnavailable, match=r"serves Qwen/Qwen3-VL-4B-Instruct, not other"):
        endpoint(server.url, model="other")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(ModelUnavailable, match="ConnectError"):
            endpoint(f"http://127.0.0.1:{unused.getsockname()[1]}/v1")
    thinking = Endpoint(catalog.find("qwen3-vl-8b-thinking"), EndpointSettings(url=server.url))
    with pytest.raises(ModelUnavailable, match="thinks before it answers"):
        thinking.load("cpu")


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Of the loopback address. Bound without listening: given to nobody else, and a server that sets SO_REUSEADDR, as
    vLLM does, may listen there."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.fixture(scope="module")
def vllm_serve(port: int, thinking_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real server; its log is shown if it does not come up."""
    log = tmp_path_factory.mktemp("serve") / "log"
    server = "vllm.entrypoints.openai.api_server"  # what `vllm serve` starts; the command wants the package for cards
    command = [sys.executable, "-m", server, "--model", str(thinking_checkpoint), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--served-model-name", "tiny", "--api-key", SECRET, "--dtype", "float32"]
    command += ["--enforce-eager", "--max-model-len", "2048", "--limit-mm-per-prompt", '{"image": 1, "video": 0}']
    surroundings = os.environ | {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=surroundings, start_new_session=True)
    try:
        until(lambda: process.poll() is not None or healthy(port), 600, "vllm serve is healthy")
        assert process.poll() is None, log.read_text()[-3000:]
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(process.pid, 9)
        process.wait()


def healthy(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=1).status_code == 200
    except httpx.HTTPError:
        return False


def test_a_real_vllm_serve_answers_as_its_weights_do(vllm_serve: str, checkpoint: Path) -> None:
    from reference import Reference

    model = endpoint(vllm_serve, model="tiny", key=SecretStr(SECRET), seconds=60.0)
    assert model._ids is not None, "vLLM tells the ids of the answers"
    opinions = model.assess(FRAMES)
    weights = Reference(checkpoint)
    for frame, opinion in zip(FRAMES, opinions, strict=True):
        expected = weights.log_odds(frame, model.prompt, model.prompt.chats[0], model.settings.max_pixels)
        assert opinion.logit == pytest.approx(expected, abs=1e-3)
    assert model.assess_crop(FRAMES[2], [{"box": [300, 300, 420, 420]}]).evidence["size"] == (240, 240)
    model.close()
    with pytest.raises(ModelUnavailable, match="401"):
        endpoint(vllm_serve, model="tiny")
