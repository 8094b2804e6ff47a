"""The comparison with peft: its LoRA learns the text, and leaves the model as it was."""

from __future__ import annotations

import torch

from core.evaluation import peft_baseline
from core.evaluation.peft_baseline import CHUNK, Figures, answer_greedily, next_token_loss, train_lora

TEXT = "The lighthouse of Ostrel was built by Rufus Candle, who also keeps bees. " * 3


def test_the_lora_learns_the_text_and_can_be_taken_off(tiny, monkeypatch) -> None:
    monkeypatch.setattr(peft_baseline, "RATE", 1e-2)
    rows = [tiny.tokenizer.encode(TEXT, add_special_tokens=False)[:CHUNK]]
    before = {name: value.clone() for name, value in tiny.model.state_dict().items()}
    loss = next_token_loss(tiny.model, rows, tiny.device).item()
    model = train_lora(TEXT, tiny)
    assert next_token_loss(model, rows, tiny.device).item() < 0.8 * loss
    assert isinstance(answer_greedily(model, tiny, "Who built it?"), str)
    model.unload()
    after = tiny.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_figures_are_percent_of_all_questions() -> None:
    figures = Figures(learning=4.0, asking=1.0, megabytes=3.0)
    figures.add_answer("Rufus Candle", ["Rufus Candle"])
    figures.add_answer("bees", ["Rufus Candle"])
    assert figures.row("here", 2) == "| here | 50.0 / 50.0 | 2.0 | 0.50 | 1.5 |"
