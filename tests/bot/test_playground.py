"""The playground in a real browser: Chromium, headless, driven by Playwright. Nothing may come from another host."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pymupdf
import pytest
import pytest_asyncio
from PIL import Image

ROOT = Path(__file__).parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MISSING = not CHROMIUM or not all(map(importlib.util.find_spec, ("gradio", "playwright")))
pytestmark = [
    pytest.mark.skipif(MISSING and not os.environ.get("CI"), reason="needs Gradio, Playwright and a Chromium"),
    pytest.mark.asyncio(loop_scope="module"),  # the browser's loop
]
if not MISSING:
    from playwright.async_api import Browser, Page, async_playwright, expect

    expect.set_options(timeout=60_000)

CAPTAIN = "Who is the captain of the ferry?"
REMOVED_CHART = "reading 'offsetWidth'"  # Gradio's chart measures itself once more when a reset has removed it


@contextmanager
def started(command: list[str], folder: Path, log: Path, **variables: str) -> Iterator[str]:
    """The address of a playground in a process of its own, with these variables."""
    environment = os.environ | variables
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT, env=environment)
    try:
        yield address(process, log)
    finally:
        process.terminate()
        assert process.wait(60) == 0, log.read_text()


def address(process: subprocess.Popen[bytes], log: Path) -> str:
    for _ in range(1200):
        if found := re.search(r"playground is at (http://\S+)", log.read_text()):
            return found[1]
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(log.read_text())


def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def by_heart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """On an engine that learns by heart, a second a document."""
    log = tmp_path_factory.mktemp("playground") / "log"
    command = [sys.executable, "-m", "tests.torture.by_heart", "playground", "--port", str(port())]
    with started(command, ROOT, log) as at:
        yield at
    assert "Traceback" not in log.read_text()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chromium() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        opened = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        await opened.close()


@pytest_asyncio.fixture(loop_scope="module")
async def browser(chromium: Browser) -> AsyncIterator[Browser]:
    """All profiles are thrown away after each test."""
    yield chromium
    for context in list(chromium.contexts):
        await context.close()


async def visit(browser: Browser, at: str, width: int = 1200) -> Page:
    """A visitor with a browser profile of its own. What goes wrong in the page is kept in `problems`."""
    context = await browser.new_context(viewport={"width": width, "height": 900})
    page = await context.new_page()
    problems: list[str] = []
    page.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)) if REMOVED_CHART not in str(error) else None)
    page.on("request", lambda asked: problems.append(asked.url) if is_foreign(asked.url) else None)
    page.problems = problems
    await page.goto(at)
    await expect(page.locator("#known")).to_contain_text("session")
    return page


async def reload(page: Page) -> None:
    """Forgets the problems of the page that goes: its streams end."""
    await page.reload()
    await expect(page.locator("#known")).to_contain_text("session")
    page.problems.clear()


def is_foreign(url: str) -> bool:
    return urlsplit(url).scheme.startswith("http") and urlsplit(url).hostname not in ("127.0.0.1", "localhost")


async def learn_sample(page: Page) -> None:
    await page.get_by_role("button", name="A ferry").click()
    summary = page.locator("#summary")
    await expect(summary).to_contain_text("ferry.md: 1 page,", timeout=180_000)  # the model may be loading
    await page.locator("#learn").click()


async def ask(page: Page, question: str) -> None:
    await page.get_by_label("Question").fill(question)
    await page.locator("#ask").click()
    await expect(page.locator("#base")).to_contain_text("mean token probability")


async def keep_picture(page: Page, name: str) -> None:
    """For docs/, where a folder is named."""
    if folder := os.environ.get("PLAYGROUND_PICTURES"):
        await page.wait_for_timeout(1500)  # until the plots are drawn
        drawn = Image.open(BytesIO(await page.screenshot(full_page=True))).convert("RGB")
        small = drawn.quantize(200, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        small.save(Path(folder) / name, optimize=True)


async def test_two_visitors_see_nothing_of_each_other_and_a_reset_erases(browser: Browser, by_heart: str) -> None:
    ada, bob = await asyncio.gather(visit(browser, by_heart), visit(browser, by_heart))
    await learn_sample(ada)
    await expect(ada.locator("#progress")).to_contain_text("I know ferry.md now")
    await ask(ada, CAPTAIN)
    await expect(ada.locator("#learned")).to_contain_text("Bram Osterly")
    await ask(bob, CAPTAIN)
    await expect(bob.locator("#learned")).to_contain_text("Nothing learned here")
    await expect(bob.locator("#known")).to_contain_text("Nothing is learned")
    await ada.locator("#reset").click()
    await expect(ada.locator("#known")).to_contain_text("Nothing is learned")
    await expect(ada.get_by_label("Question")).to_have_value("")  # else what is typed now may be cleared, too
    await ask(ada, CAPTAIN)
    await expect(ada.locator("#learned")).not_to_contain_text("Bram Osterly")
    assert ada.problems + bob.problems == []


async def test_a_reload_in_the_middle_of_learning_goes_on_and_others_see_their_place(
    browser: Browser, by_heart: str, tmp_path: Path
) -> None:
    ada, bob = await asyncio.gather(visit(browser, by_heart), visit(browser, by_heart))
    long = tmp_path / "long.txt"
    long.write_text("The harbour of Vessin has nineteen boats. Its master is Orla Quint. " * 700)
    await ada.locator("#file input[type=file]").set_input_files(long)
    await expect(ada.locator("#summary")).to_contain_text("long.txt:")
    await ada.locator("#learn").click()
    await expect(ada.locator("#progress")).to_contain_text("step")
    await learn_sample(bob)
    await expect(bob.locator("#progress")).to_contain_text("waiting")
    await reload(ada)
    await expect(ada.locator("#progress")).to_contain_text("Learning long.txt")
    await expect(ada.locator("#progress")).to_contain_text("I know long.txt now")
    await expect(bob.locator("#progress")).to_contain_text("I know ferry.md now")
    await expect(ada.locator("#cleared")).to_contain_text("Context cleared")
    assert ada.problems + bob.problems == []


async def test_what_is_refused_is_said_as_the_bot_says_it(browser: Browser, by_heart: str, tmp_path: Path) -> None:
    page = await visit(browser, by_heart)
    for name, data, words in (
        ("broken.pdf", b"%PDF-1.7 nothing", "damaged"),
        ("<b>short</b>.txt", b"Hello there.", "too little to learn from"),
    ):
        file = tmp_path / name.replace("/", "")
        file.write_bytes(data)
        await page.locator("#file input[type=file]").set_input_files(file)
        await expect(page.locator("#notice")).to_contain_text(words)
        await expect(page.locator("#learn")).to_be_disabled()
        assert page.problems == []
        await reload(page)
    await page.get_by_label("Only these pages").fill("pages 2-3")
    (tmp_path / "three.txt").write_text("\f".join(["The harbour of Vessin has nineteen boats. " * 9] * 3))
    await page.locator("#file input[type=file]").set_input_files(tmp_path / "three.txt")
    await expect(page.locator("#summary")).to_contain_text("three.txt: 2 pages,")
    await reload(page)  # what was handed in is still there
    await expect(page.locator("#summary")).to_contain_text("three.txt: 2 pages,")
    await expect(page.get_by_label("Only these pages")).to_have_value("pages 2-3")
    await page.get_by_label("Only these pages").fill("the end")
    await page.get_by_label("Only these pages").press("Enter")
    await expect(page.locator("#notice")).to_contain_text("Say which pages")
    await expect(page.locator("#learn")).to_be_disabled()
    await page.get_by_label("Only these pages").fill("")
    await page.get_by_label("Question").focus()
    await expect(page.locator("#summary")).to_contain_text("three.txt: 3 pages,")
    await page.get_by_label("Only these pages").fill("3")
    await page.locator("#learn").click()
    await expect(page.locator("#known")).to_contain_text("three.txt (1 page)")
    await page.locator("#ask").click()
    await expect(page.locator("#notice")).to_contain_text("There is no question")
    assert page.problems == []


@pytest.mark.skipif(not shutil.which("tesseract"), reason="needs Tesseract")
async def test_a_picture_of_text_is_shown_as_it_will_be_learned(
    browser: Browser, by_heart: str, tmp_path: Path
) -> None:
    paper = pymupdf.open().new_page()
    paper.insert_textbox((50, 50, 550, 400), "The harbour of Vessin has nineteen boats. " * 8, fontsize=16)
    (tmp_path / "notice.png").write_bytes(paper.get_pixmap(dpi=150).tobytes("png"))
    page = await visit(browser, by_heart)
    await page.locator("#file input[type=file]").set_input_files(tmp_path / "notice.png")
    await expect(page.locator("#summary")).to_contain_text("read by text recognition")
    await expect(page.locator("#learn")).to_be_enabled()


async def forged(at: str, name: str, *inputs: object) -> str:
    """What the page is sent, when a request of nobody's browser calls one of its handlers."""
    async with aiohttp.ClientSession(at) as session:
        async with session.get("/config") as config:
            handlers = (await config.json())["dependencies"]
        [number] = [handler["id"] for handler in handlers if handler["api_name"] == name]
        event = {"fn_index": number, "data": inputs, "session_hash": "forged"}
        async with session.post("/gradio_api/queue/join", json=event) as joined:
            assert joined.status == 200
        async with session.get("/gradio_api/queue/data", params={"session_hash": "forged"}) as stream:
            return (await stream.read()).decode()


async def test_no_file_is_read_but_those_that_were_uploaded(by_heart: str, tmp_path: Path) -> None:
    secret, notes = "4711-secret", tmp_path / "notes.txt"
    notes.write_text(f"The number is {secret}. The harbour of Vessin has nineteen boats. " * 20)
    assert "Nothing is learned" in await forged(by_heart, "begin", "")
    above = f"{tempfile.gettempdir()}/gradio/../{notes.relative_to(tempfile.gettempdir())}"
    for path in (str(notes), above, "/proc/self/environ", "https://127.0.0.1:1/notes.txt"):
        file = {"path": path, "meta": {"_type": "gradio.FileData"}}
        for reply in (await forged(by_heart, "upload", file), await forged(by_heart, "answer", file, False)):
            assert "was not uploaded here" in reply and secret not in reply
    assert notes.exists()


async def test_on_a_phone_nothing_is_wider_than_the_screen(browser: Browser, by_heart: str) -> None:
    page = await visit(browser, by_heart, width=360)
    await learn_sample(page)
    await expect(page.locator("#progress")).to_contain_text("I know ferry.md now")
    await page.get_by_label("Also answer").check()
    await ask(page, CAPTAIN)
    await expect(page.locator("#reading")).to_contain_text("tokens in the prompt are the document's")
    assert await page.evaluate("document.documentElement.scrollWidth") <= 360
    for answer in ("#learned", "#base", "#reading"):  # one below the other
        box = await page.locator(answer).bounding_box()
        assert box and box["width"] > 250
    assert page.problems == []


async def test_the_whole_story_in_a_space_with_the_model(browser: Browser, tmp_path: Path) -> None:
    """The folder that `make space` builds, as it is but for its port, with the embedded model."""
    space = tmp_path / "space"
    subprocess.run([sys.executable, ROOT / ".ci" / "space.py", space], check=True)
    app = space / "app.py"
    app.write_text(app.read_text().replace("7860", str(port())).replace("0.0.0.0", "127.0.0.1"))
    assert (space / "README.md").read_text().startswith("---\ntitle: Engram\n")
    log = tmp_path / "log"
    variables = {} if "PLAYGROUND_PICTURES" in os.environ else {"ENGRAM_CHECK": "false", "OMP_NUM_THREADS": "1"}
    with started([sys.executable, "app.py"], space, log, **variables) as at:
        page = await visit(browser, at)
        await learn_sample(page)
        await expect(page.locator("#progress")).to_contain_text("I know ferry.md now", timeout=180_000)
        await expect(page.locator("#metrics")).to_contain_text("L2 norm of the weight change")
        await expect(page.locator("#cleared")).to_contain_text("Tokens of the document in the prompt: 0 of")
        await page.get_by_label("Also answer").check()
        await ask(page, "When does the ferry leave?")
        await expect(page.locator("#learned")).to_contain_text("ferry.md · ")
        await expect(page.locator("#reading")).to_contain_text("tokens in the prompt are the document's")
        await page.locator("#prompt button").first.click()
        await expect(page.locator("#prompt")).to_contain_text("When does the ferry leave?")
        await expect(page.locator("#prompt")).not_to_contain_text("seven")
        await keep_picture(page, "playground.png")
        await page.set_viewport_size({"width": 360, "height": 900})
        await page.wait_for_timeout(1500)  # until the plots are drawn anew
        assert await page.evaluate("document.documentElement.scrollWidth") <= 360
        await keep_picture(page, "playground-phone.png")
        await page.locator("#reset").click()
        await expect(page.locator("#known")).to_contain_text("Nothing is learned")
        assert page.problems == []
    assert "Traceback" not in log.read_text()
