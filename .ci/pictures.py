"""Draws the README's picture of an answer and the page's picture of learning, from a real run of the embedded model:
`make pictures`, where a Chromium is installed.

The messages are those that Slack would be sent (`to_blocks`); their look is drawn here.
"""

import asyncio
import html
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from bot import render
from bot.app import App, open_app
from bot.cli.demo import SAMPLE
from bot.platforms.slack.blocks import to_blocks
from bot.settings import load_settings
from core.types import Document

ROOT = Path(__file__).parents[1]
CHANNEL = "picture"
QUESTIONS = ("Who built the Vantle lighthouse?", "What is the fine for a late library book?")
CSS = """
body { font: 15px/1.46 "Noto Sans", sans-serif; margin: 0; padding: 18px 22px; width: 760px; color: #1d1c1d; }
.message { display: flex; gap: 10px; margin: 0 0 14px; }
.reply { margin-left: 46px; border-left: 2px solid #ddd; padding-left: 12px; }
.face { width: 36px; height: 36px; border-radius: 8px; color: #fff; display: grid; place-items: center;
  font-weight: 700; }
.inside { flex: 1; }
.name { font-weight: 700; }
.app { font-size: 11px; color: #616061; background: #eee; padding: 0 4px; border-radius: 3px; }
.mention { color: #1264a3; background: #e8f5fa; padding: 0 2px; border-radius: 3px; }
.small { font-size: 12.5px; color: #616061; white-space: pre-line; }
.section { display: flex; gap: 24px; white-space: pre-line; }
.section > .button { margin-left: auto; align-self: center; }
.task { border: 1px solid #ddd; border-radius: 8px; padding: 4px 10px; width: fit-content; }
.thumb svg { width: 15px; margin: 8px 10px -2px 0; } .button .thumb svg { margin: 0 0 -2px; }
.thumb.down svg { transform: rotate(180deg); }
.primary { background: #007a5a; color: #fff; } .danger { color: #e01e5a; border-color: #e01e5a; }
h2 { font-size: 15px; color: #616061; border-bottom: 1px solid #ccc; margin: 4px 0 12px; }
.button { display: inline-block; border: 1px solid #bbb; border-radius: 4px; padding: 2px 10px; margin: 5px 8px 0 0;
  font-weight: 700; font-size: 13px; }
"""


THUMB = (
    '<svg viewBox="0 0 14 14" fill="none" stroke="#616061"><path d="M4 6 7 1c1.6 0 1.6 1.6 1.1 4H12c1 0 1 1.4.6 2.4'
    'L11.5 12H4ZM1.2 6H3v6H1.2Z"/></svg>'
)


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with open_app(load_settings(data_dir=Path(folder))) as app:
            job = await app.service.submit(
                CHANNEL, "Island Handbook.pdf", (SAMPLE / "sample.pdf").read_bytes(), by="me"
            )
            async for news in app.service.watch(job.id):
                if news.step:
                    print(news.job.stage, news.step.done, news.step.total, flush=True)
            assert news.document, news.job.error
            await picture_of_answer(app)
            await picture_of_learning(app, news.document)


async def picture_of_answer(app: App) -> None:
    parts = []
    for question in QUESTIONS:
        answer = await app.service.ask(CHANNEL, question, by="me")
        print(question, answer.learned, answer.base, answer.pages, flush=True)
        parts.append(message("Bob", "#d9a441", f"{mention('Engram')} {html.escape(question)}"))
        inside = blocks(to_blocks(render.answer(answer))["blocks"])
        parts.append(message("Engram", "#2f3e9e", inside, app=True, reply=True))
    page = f"<!doctype html><meta charset=utf-8><style>{CSS}</style>{''.join(parts)}"
    await shoot(page, ROOT / "docs" / "chat" / "answer.png")


def message(name: str, colour: str, inside: str, *, app: bool = False, reply: bool = False) -> str:
    mark = ' <span class="app">APP</span>' if app else ""
    return (
        f'<div class="message{" reply" * reply}"><div class="face" style="background: {colour}">{name[0]}</div>'
        f'<div class="inside"><span class="name">{name}</span>{mark}<br>{inside}</div></div>'
    )


def blocks(given: list[dict[str, Any]]) -> str:
    """Slack's blocks as HTML."""
    drawn = []
    for block in given:
        if block["type"] == "section":
            texts = [field["text"] for field in block.get("fields", [])] or [block["text"]["text"]]
            columns = "".join(f"<div>{marked(text)}</div>" for text in texts)
            beside = button(block["accessory"]) if "accessory" in block else ""
            drawn.append(f'<div class="section">{columns}{beside}</div>')
        elif block["type"] == "context":
            drawn.append(f'<div class="small">{marked(block["elements"][0]["text"])}</div>')
        elif block["type"] == "task_card":
            drawn.append(f'<div class="task">◌ <b>{html.escape(block["title"])}</b></div>')
        elif block["type"] == "context_actions":
            drawn.append(f'<span class="thumb">{THUMB}</span><span class="thumb down">{THUMB}</span> ')
        elif block["type"] == "actions":
            drawn += map(button, block["elements"])
    return "".join(drawn)


def button(element: dict[str, Any]) -> str:
    label = html.escape(element["text"]["text"])
    for sign, turned in (("👍", ""), ("👎", " down")):  # few machines that draw this have a font for them
        label = label.replace(sign, f'<span class="thumb{turned}">{THUMB}</span>')
    return f'<span class="button {element.get("style", "")}">{label}</span>'


def marked(text: str) -> str:
    """mrkdwn as HTML; it comes escaped."""
    text = re.sub(r"&lt;@U(\w+)&gt;|<@U(\w+)>", lambda m: mention((m[1] or m[2]).title()), text)
    text = re.sub(r"<#(\w+)>", "#general", text)
    text = re.sub(r"(?m)^_(.+)_$", r"<i>\1</i>", text)
    return re.sub(r"\*(.+?)\*", r"<b>\1</b>", text)


def mention(name: str) -> str:
    return f'<span class="mention">@{"Engram" if name == "Bot" else name}</span>'


async def shoot(page: str, file: Path) -> None:
    from PIL import Image
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        tab = await browser.new_page(device_scale_factor=1.5)
        await tab.set_content(page)
        await tab.locator("body").screenshot(path=file)
        await browser.close()
    with Image.open(file) as picture:
        picture.convert("RGB").quantize(64).save(file, optimize=True)


async def picture_of_learning(app: App, document: Document) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    norms = await app.inspection.layer_norms(CHANNEL, document.id)
    print(document.metrics, norms, flush=True)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3), layout="constrained")
    steps = range(len(document.metrics.loss_history))
    left.plot(steps, document.metrics.loss_history, marker="o")
    left.set_xticks(steps)
    left.set(xlabel="step", ylabel="loss, nats a token", title="The sample while it is learned", ylim=(0, None))
    right.bar([str(layer) for layer in norms], [*norms.values()])
    right.set(xlabel="layer", ylabel="L2 norm", title="Change of the down-projections, all sections")
    (ROOT / "docs" / "how-it-works").mkdir(exist_ok=True)
    figure.savefig(ROOT / "docs" / "how-it-works" / "learning.png", dpi=110)


if __name__ == "__main__":
    asyncio.run(main())
