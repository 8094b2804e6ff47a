"""Articles -> the embedded model's tokenizer: byte-level BPE, every digit on its own.

python -m core.embedded.tokenizer --articles wikipedia-0.txt.xz ... --out tokenizer.json [--size 16384] [--every N]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from core.embedded.corpus import held_out, read_articles
from core.options import add_options, given

SPECIAL = ("<|endoftext|>", "<|pad|>", "<|q|>", "<|a|>", "<|qg|>", "<|doc|>")  # ids 0-5: END, PAD, ... in corpus.py


@dataclass(frozen=True)
class TokenizerConfig:
    size: int = 16_384  # tokens at most
    every: int = 1  # take one in so many articles


def train_tokenizer(texts: Iterable[str], size: int = TokenizerConfig.size) -> Tokenizer:
    """At most `size` tokens: the special ones, the 256 bytes, then the most frequent pairs; no text is unknown."""
    tokenizer = Tokenizer(models.BPE())
    digits, text = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, text])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--articles", nargs="+", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    add_options(parser, TokenizerConfig)
    o = parser.parse_args()
    config = TokenizerConfig(**given(o, TokenizerConfig))
    began = time.time()
    articles = [a for path in o.articles for a in read_articles(path)[:: config.every] if not held_out(a[0])]
    tokenizer = train_tokenizer((f"# {title}\n{body}" for title, body in articles), config.size)
    tokenizer.save(str(o.out))
    seconds = time.time() - began
    print(f"{tokenizer.get_vocab_size():,} tokens from {len(articles):,} articles in {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
