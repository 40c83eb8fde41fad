"""The review page in a real browser: screenshots, and how many labels a minute the page allows.

    python -m benchmarks.review --out DIR [--labels 200] [--chromium /usr/bin/chromium]

A journal of drawn street scenes is served; headless Chromium labels from the keyboard as soon as each picture is on
the screen, so the figure is the page's own limit: a person adds the time to look. Needs the package `playwright`.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import math
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from PIL import Image
from playwright.sync_api import Page, sync_playwright
from starlette.applications import Starlette

from cascade.verdict import Source, Stop, Verdict
from miner.journal import Journal, Keep
from miner.journal_views import Views
from miner.review import routes
from miner.service import Answered
from models.base import Frame, Opinion
from models.data.drawn import draw

NOW_SHOWN = "() => document.body.dataset.sha256 && document.body.dataset.shown === document.body.dataset.sha256"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--labels", type=int, default=200)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp())
    journal = Journal(directory, lambda: "drawn", Keep(share=1.0))
    try:
        fill(journal, options.labels + 60)
        server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes(journal)), port=0, log_level="warning"))  # type: ignore[arg-type]
        thread = threading.Thread(target=server.run)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        with sync_playwright() as play:
            browser = play.chromium.launch(executable_path=options.chromium, args=["--no-sandbox"])
            try:
                work(browser.new_page(viewport={"width": 1280, "height": 800}), port, directory, options)
                narrow = browser.new_page(viewport={"width": 420, "height": 860}, color_scheme="dark")
                narrow.goto(f"http://127.0.0.1:{port}/review")
                narrow.wait_for_function(NOW_SHOWN)
                narrow.screenshot(path=options.out / "review-narrow-dark.png")
            finally:
                browser.close()
        server.should_exit = True
        thread.join()
    finally:
        journal.close()
        shutil.rmtree(directory)


def work(page: Page, port: int, directory: Path, options: argparse.Namespace) -> None:
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(f"http://127.0.0.1:{port}/review")
    page.wait_for_function(NOW_SHOWN)
    page.screenshot(path=options.out / "review-queue.png")
    views = Views(directory)
    began, waits = time.perf_counter(), []
    for number in range(options.labels):
        page.keyboard.press("rcrcu"[number % 5])
        pressed = time.perf_counter()
        page.wait_for_function(NOW_SHOWN)
        waits.append(1e3 * (time.perf_counter() - pressed))
    took = time.perf_counter() - began
    p50, p95 = np.percentile(waits, [50, 95])
    print(f"{options.labels} labels in {took:.1f} s: {60 * options.labels / took:.0f} a minute is the page's own limit")
    print(f"key to next picture on screen: p50 {p50:.0f} ms, p95 {p95:.0f} ms, worst {max(waits):.0f} ms")
    print(f"200 in ten minutes leave a person {600 / 200 - took / options.labels:.2f} s to look at each")
    page.keyboard.press("z")
    page.wait_for_timeout(500)
    given = views.progress(0.0)
    print(f"on record after one undo: {given['roadwork']} road work, {given['clear']} clear, {given['unsure']} unsure")
    assert given["roadwork"] + given["clear"] + given["unsure"] == options.labels - 1
    page.screenshot(path=options.out / "review-labelled.png")
    page.keyboard.press("s")
    page.wait_for_function(NOW_SHOWN)
    page.screenshot(path=options.out / "review-second-look.png")
    views.close()
    assert not problems, problems
    print("no error in the browser's console")


def fill(journal: Journal, pictures: int) -> None:
    """Answers to drawn scenes as an unsure cascade would give them, with boxes and reasons."""
    rng = np.random.default_rng(0)
    for seed in range(pictures):
        roadwork = seed % 2 == 0
        pixels = draw(seed, roadwork)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=85)
        frame = Frame(pixels.copy(), hashlib.sha256(buffer.getvalue()).hexdigest())
        logit = float((1.5 if roadwork else -1.5) + 2.0 * rng.standard_normal())
        p = 1 / (1 + math.exp(-logit))
        left, top = rng.uniform(80, 400), rng.uniform(150, 250)
        evidence: dict[str, Any] = {
            "boxes": [{"label": "traffic cone", "score": 0.41, "box": [left, top, left + 60, top + 70]}]
        }
        said = {"reason": "Orange objects stand at the edge of the lane, but no closure is visible.", "answer": "maybe"}
        opinions = (
            Opinion("embedded", logit, 21.0),
            Opinion("detector", logit * 0.6, 30.0, evidence if rng.random() < 0.6 else {}),
            Opinion("vlm", -logit * 0.3, 400.0, said),
        )
        verdict = Verdict(p, (p * 0.8, p), opinions, (), ("one", "two"), Stop.LAST_TIER, Source.CASCADE, False, 451.0)
        image = base64.b64encode(buffer.getvalue()).decode()
        journal(Answered("validator", -1, image, p, Source.CASCADE, 0.5, "", frame, verdict))
    journal.flush(60)
    journal.flush(60)


if __name__ == "__main__":
    main()
