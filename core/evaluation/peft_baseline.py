"""Learning a document here, and by the book: transformers and peft, LoRA on the document's text, in one run.

    python -m core.evaluation.peft_baseline --squad FILE [--documents N]

Both answer the same questions with nothing of the document in the prompt, on the same device and in the model's own
type, one document after the other: first a Service, then peft. By the book means a LoRA of rank 16 on every projection,
AdamW at 2e-4, 10 epochs over the text in chunks of 192 tokens, four a step. That model answers in its own chat
template, and is asked for a few words.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model

from core.engine import Engine, EngineConfig
from core.evaluation.bench import channel_of
from core.evaluation.question_sets import asked_articles
from core.evaluation.served import open_service
from core.model import LoadedModel, load_model
from core.squad import Article, exact_match, f1

TARGETS = "all-linear"
RANK, RATE, EPOCHS, CHUNK, ROWS = 16, 2e-4, 10, 192, 4
ANSWER_TOKENS = 24
SHORT = "Answer with a few words. "  # before each question to the plain model


@dataclass
class Figures:
    """Of one way, over all documents."""

    em: list[float] = field(default_factory=list)  # percent, of each question
    f1: list[float] = field(default_factory=list)
    learning: float = 0.0  # seconds
    asking: float = 0.0
    megabytes: float = 0.0

    def add_answer(self, text: str, gold: Sequence[str]) -> None:
        self.em.append(100 * exact_match(text, gold))
        self.f1.append(100 * f1(text, gold))

    def row(self, name: str, documents: int) -> str:
        count = max(1, len(self.em))
        cells = (
            name,
            f"{sum(self.em) / count:.1f} / {sum(self.f1) / count:.1f}",
            f"{self.learning / documents:.1f}",
            f"{self.asking / count:.2f}",
            f"{self.megabytes / documents:.1f}",
        )
        return f"| {' | '.join(cells)} |"


@contextmanager
def timed(figures: Figures, name: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    setattr(figures, name, getattr(figures, name) + time.perf_counter() - began)


async def measure_service(articles: Sequence[Article], device: str) -> Figures:
    """As served: learned in a channel of its own, asked one question after the other."""
    figures = Figures()
    engine = Engine.load(EngineConfig(model="embedded", device=device, check=False))
    async with open_service(lambda: engine) as served:
        for n, article in enumerate(articles):
            with timed(figures, "learning"):
                document = await served.learn(channel_of(n), n, article)
            figures.megabytes += document.weights.bytes / 1e6
            for question in article.questions:
                with timed(figures, "asking"):
                    answer = await served.service.ask(channel_of(n), question.text)
                figures.add_answer((answer.learned or answer.base).text, question.answers)
    return figures


def measure_peft(articles: Sequence[Article], base: LoadedModel) -> Figures:
    """A LoRA for each document, trained from nothing."""
    figures = Figures()
    for article in articles:
        with timed(figures, "learning"):
            model = train_lora("\n\n".join(article.text), base)
        adapter = [p for name, p in model.named_parameters() if "lora_" in name]
        figures.megabytes += sum(p.numel() for p in adapter) * 2 / 1e6  # in bfloat16
        for question in article.questions:
            with timed(figures, "asking"):
                text = answer_greedily(model, base, question.text)
            figures.add_answer(text, question.answers)
        model.unload()
    return figures


def train_lora(text: str, base: LoadedModel) -> PeftModel:
    """The model with a LoRA that learned the text by its next-token loss."""
    torch.manual_seed(0)
    model = get_peft_model(base.model, LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=TARGETS))
    ids = base.tokenizer.encode(text, add_special_tokens=False)
    chunks = [ids[start : start + CHUNK] for start in range(0, len(ids), CHUNK)]
    parameters = [p for p in model.parameters() if p.requires_grad]
    for p in parameters:
        p.data = p.data.float()
    optimiser = torch.optim.AdamW(parameters, lr=RATE)
    model.train()
    for _ in range(EPOCHS):
        for start in range(0, len(chunks), ROWS):
            optimiser.zero_grad()
            next_token_loss(model, chunks[start : start + ROWS], base.device).backward()
            optimiser.step()
    return model.eval()


def next_token_loss(model: Any, rows: Sequence[Sequence[int]], device: torch.device) -> torch.Tensor:
    """Mean next-token loss of the rows, nats."""
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device)
    goals = torch.tensor([[*row, *[-100] * (width - len(row))] for row in rows], device=device)
    with torch.autocast(device.type, torch.bfloat16, enabled=model.dtype == torch.bfloat16):
        logits = model(input_ids=ids, use_cache=False).logits
    return F.cross_entropy(logits[:, :-1].float().flatten(0, 1), goals[:, 1:].flatten())


@torch.no_grad()
def answer_greedily(model: Any, base: LoadedModel, question: str) -> str:
    """A few words, by the model's own chat template."""
    turn = [{"role": "user", "content": SHORT + question}]
    prompt = base.tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    prompt = prompt.to(base.device)
    with torch.autocast(base.device.type, torch.bfloat16, enabled=model.dtype == torch.bfloat16):
        ids = model.generate(
            **prompt, max_new_tokens=ANSWER_TOKENS, do_sample=False, pad_token_id=base.tokenizer.eos_token_id
        )
    return base.tokenizer.decode(ids[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True).strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--squad", type=Path, required=True)
    parser.add_argument("--documents", type=int, help="only so many")
    parser.add_argument("--device", default="auto")
    o = parser.parse_args()
    articles = asked_articles(o.squad, o.documents)
    ways = {"here": asyncio.run(measure_service(articles, o.device))}
    ways["peft"] = measure_peft(articles, load_model("embedded", device=o.device))
    print("| way | exact / F1 | seconds to learn a document | seconds a question | MB a document |")
    print("|---|---|---|---|---|")
    for name, figures in ways.items():
        print(figures.row(name, len(articles)))


if __name__ == "__main__":
    main()
