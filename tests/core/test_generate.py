"""Greedy and sampled answers: padding, stopping, holding back, confidence."""

from __future__ import annotations

import pytest
import torch

from core.generate import ROWS_ON_CPU, complete, generate, generation, prefill, run_to_return

PROMPTS = [[7, 8, 9], list(range(20, 40)), [11], list(range(50, 62))]
PLAIN = {"stop_ids": frozenset({0}), "pad_id": 1}


def first(model, prompt: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([prompt])).logits[0, -1].softmax(-1)


def test_with_left_padding_each_prompt_goes_on_as_it_does_alone(tiny) -> None:
    together, sure = generate(tiny.model, PROMPTS, max_new=8, **PLAIN)
    for prompt, tokens, chance in zip(PROMPTS, together, sure, strict=True):
        alone, alone_sure = generate(tiny.model, [prompt], max_new=8, **PLAIN)
        assert tokens == alone[0] and len(tokens) == 8
        assert chance == pytest.approx(alone_sure[0], rel=1e-3)


def test_the_cache_changes_nothing(tiny) -> None:
    [tokens], [sure] = generate(tiny.model, PROMPTS[:1], max_new=5, **PLAIN)
    ids, chances = list(PROMPTS[0]), []
    for token in tokens:
        p = first(tiny.model, ids)
        assert int(p.argmax()) == token
        chances.append(float(p.max()))
        ids.append(token)
    assert sure == pytest.approx(sum(chances) / 5, rel=1e-3)


def test_an_answer_ends_before_its_stop_token_while_others_go_on(tiny) -> None:
    whole, _ = generate(tiny.model, PROMPTS, max_new=8, **PLAIN)
    stop = whole[0][3]
    cut, _ = generate(tiny.model, PROMPTS, max_new=8, stop_ids=frozenset({stop}), pad_id=1)
    for before, after in zip(whole, cut, strict=True):
        assert after == before[: before.index(stop) if stop in before else 8]
    assert len(cut[0]) <= 3 and max(map(len, cut)) == 8


def test_a_model_without_a_stop_token_writes_to_the_limit(tiny) -> None:
    tokens, _ = generate(tiny.model, PROMPTS[:2], max_new=3, stop_ids=frozenset(), pad_id=1)
    assert [len(t) for t in tokens] == [3, 3]


def test_the_held_back_token_is_chosen_only_with_the_probability_asked_for(tiny) -> None:
    p = first(tiny.model, PROMPTS[0])
    best, second = p.topk(2).indices.tolist()
    chance = float(p[best])
    [low], [sure] = generate(tiny.model, PROMPTS[:1], max_new=1, hold_back=(best, chance * 0.9), **PLAIN)
    assert low == [best] and sure == pytest.approx(chance, rel=1e-3)
    [high], [doubtful] = generate(tiny.model, PROMPTS[:1], max_new=1, hold_back=(best, chance * 1.1), **PLAIN)
    assert high == [second]
    rest = float(p[second]) / (1 - chance)  # of what remains; and what was held back comes off
    assert doubtful == pytest.approx(rest * (1 - chance), rel=1e-3)


def test_only_the_first_token_is_held_back(tiny) -> None:
    [tokens], _ = generate(tiny.model, PROMPTS[:1], max_new=4, **PLAIN)
    later = next(t for t in tokens[1:] if t != tokens[0])
    [same], _ = generate(tiny.model, PROMPTS[:1], max_new=4, hold_back=(later, 1.1), **PLAIN)
    assert same == tokens


def test_sampling_follows_the_seed_and_varies(tiny) -> None:
    def sample(seed: int) -> list[list[int]]:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return generate(tiny.model, PROMPTS, max_new=6, temperature=1.0, **PLAIN)[0]

    assert sample(1) == sample(1) != sample(2)


def test_text_comes_without_marks_and_nothing_for_nothing(tiny) -> None:
    assert complete(tiny.model, tiny.tokenizer, [], **PLAIN) == []
    answers = complete(tiny.model, tiny.tokenizer, PROMPTS, max_new=4, **PLAIN)
    tokens, sure = generate(tiny.model, PROMPTS, max_new=4, **PLAIN)
    assert [a.text for a in answers] == [tiny.tokenizer.decode(t, skip_special_tokens=True).strip() for t in tokens]
    assert [a.tokens for a in answers] == [len(t) for t in tokens]
    assert all(0 < a.confidence <= 1 and a.seconds > 0 for a in answers)
    assert [a.confidence for a in answers] == pytest.approx(sure)


def test_a_text_read_once_serves_many_prompts(tiny) -> None:
    texts = [list(range(100, 130)), list(range(200, 215))]
    prompts = [[*texts[1], 7, 8], [*texts[0], 9], [*texts[0][:20], 5, 6, 7], texts[1], [*texts[0], 3, 4, 5, 6]]
    prefix = run_to_return(prefill(tiny.model, texts, pad_id=1))
    before = prefix.cache.layers[0].keys.clone()
    cached = generate(tiny.model, prompts, max_new=6, prefix=prefix, text_of=[1, 0, 0, 1, 0], **PLAIN)
    plain = generate(tiny.model, prompts, max_new=6, **PLAIN)
    assert cached[0] == plain[0] and cached[1] == pytest.approx(plain[1], rel=1e-3)
    assert torch.equal(prefix.cache.layers[0].keys, before)


def test_texts_are_read_a_few_at_a_time_with_pauses_on_a_cpu(tiny) -> None:
    texts = [list(range(100 + 10 * n, 130 + 11 * n)) for n in range(ROWS_ON_CPU + 1)]
    steps = prefill(tiny.model, texts, pad_id=1)
    assert [next(steps) for _ in range(2)] == [None, None], "a pause after the first few, one after the others"
    prefix = run_to_return(steps)
    for number, text in enumerate(texts):
        alone = run_to_return(prefill(tiny.model, [text], pad_id=1))
        for layer, other in zip(prefix.cache.layers, alone.cache.layers, strict=True):
            assert torch.allclose(layer.keys[number, :, : len(text)], other.keys[0, :, : len(text)], atol=1e-4)
            assert torch.allclose(layer.values[number, :, : len(text)], other.values[0, :, : len(text)], atol=1e-4)


@pytest.mark.parametrize("begun", [True, False])
def test_many_prompts_are_read_a_few_at_a_time_with_pauses_on_a_cpu(tiny, begun) -> None:
    text = list(range(100, 130))
    prompts = [[*text, *range(7 + n, 9 + 2 * n)] for n in range(ROWS_ON_CPU + 1)]
    plain = [generate(tiny.model, [prompt], max_new=6, **PLAIN) for prompt in prompts]
    options = {"prefix": run_to_return(prefill(tiny.model, [text], 1)), "text_of": [0] * len(prompts)} if begun else {}
    steps, pauses = generation(tiny.model, prompts, max_new=6, in_parts=True, **options, **PLAIN), 0
    while True:
        try:
            next(steps)
            pauses += 1
        except StopIteration as end:
            tokens, sure = end.value
            break
    assert tokens == [answers for [answers], _ in plain]
    assert sure == pytest.approx([chance for _, [chance] in plain], rel=1e-3)
    assert pauses == 2 + 5, "after the first few, after the other one, and between six tokens"


def test_each_prompt_has_its_own_temperature(tiny) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        tokens, _ = generate(tiny.model, [PROMPTS[0]] * 3, max_new=6, temperature=[0.0, 2.0, 2.0], **PLAIN)
    [greedy], _ = generate(tiny.model, PROMPTS[:1], max_new=6, **PLAIN)
    assert tokens[0] == greedy and len({tuple(t) for t in tokens}) == 3
