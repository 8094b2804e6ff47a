"""From a GGUF file to a folder that loads at once; what can go wrong on the way."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from tokenizers.models import Unigram
from tokenizers.normalizers import Replace

from core import convert
from core.convert import CONTROL, USER_DEFINED, fetch_command, find_or_convert, fingerprint_of, join_by_score
from core.errors import ModelNotFound
from core.files import sha256_of
from core.model import LoadedModel, load_model, load_tokenizer, prepared_folder
from tests.core.gguf_files import TEMPLATE, random_model, write_gguf

ROOT = Path(__file__).parents[2]
CONVERT = (
    "import sys; from pathlib import Path; from core.convert import find_or_convert as find; "
    "find(sys.argv[1], Path(sys.argv[2]))"
)
FILES = ["config.json", "model.safetensors", "source.json", "tokenizer.json", "tokenizer_config.json"]


@pytest.fixture(scope="session")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "small.gguf", random_model())


@pytest.fixture(scope="session")
def converted(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the file's model in it; to be copied, not changed."""
    cache = tmp_path_factory.mktemp("converted")
    find_or_convert(str(file), cache)
    return cache


@pytest.fixture
def cache(converted: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(converted, tmp_path / "cache"))


def load(file: Path, cache: Path, dtype: str = "bfloat16") -> LoadedModel:
    return load_model(str(file), cache=cache, device="cpu", dtype=dtype)


def visible(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.endswith(".lock")}


def test_a_gguf_file_answers_like_the_model_that_it_was_made_from(file: Path, cache: Path) -> None:
    loaded = load(file, cache, "float32")
    ids = torch.arange(6, 40)[None]
    torch.testing.assert_close(loaded.model(input_ids=ids).logits, random_model()(input_ids=ids).logits)
    assert not loaded.model.training and not any(p.requires_grad for p in loaded.model.parameters())


def test_a_file_of_another_family_answers_like_its_model(tmp_path: Path) -> None:
    model = random_model("qwen2")
    loaded = load(write_gguf(tmp_path / "qwen.gguf", model), tmp_path / "cache", "float32")
    ids = torch.arange(6, 40)[None]
    torch.testing.assert_close(loaded.model(input_ids=ids).logits, model(input_ids=ids).logits)


def test_an_output_layer_is_kept_only_where_it_is_not_the_embedding(file: Path, cache: Path, tmp_path: Path) -> None:
    untied = random_model(tied=False)
    other = find_or_convert(str(write_gguf(tmp_path / "untied.gguf", untied)), cache)
    for folder, kept in ((find_or_convert(str(file), cache), False), (other, True)):
        with safe_open(folder / "model.safetensors", "pt") as weights:
            assert ("lm_head.weight" in weights.keys()) is kept  # noqa: SIM118
    ids = torch.arange(6, 40)[None]
    answered = load(tmp_path / "untied.gguf", cache, "float32").model(input_ids=ids).logits
    torch.testing.assert_close(answered, untied(input_ids=ids).logits)


def test_the_tokenizer_is_the_one_that_the_file_describes(file: Path, cache: Path) -> None:
    tokenizer = load(file, cache).tokenizer
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    assert tokenizer.tokenize("the  1874") == ["the", "ĠĠ", "1", "8", "7", "4"]
    text = "the café . 😀\n"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.chat_template == TEMPLATE
    assert load_tokenizer(str(file), cache).encode(text).ids == tokenizer.encode(text)


@pytest.mark.parametrize(("split", "tokens"), [("llama-bpe", ["18", "7", "4"]), ("gpt-2", ["18", "74"])])
def test_digits_are_split_as_the_file_says(tmp_path: Path, split: str, tokens: list[str]) -> None:
    file = write_gguf(tmp_path / "other.gguf", random_model(), split=split)
    assert load(file, tmp_path / "cache").tokenizer.tokenize("1874") == tokens


def test_pieces_are_joined_by_their_scores_as_llama_cpp_does() -> None:
    letters = list("▁capitl")
    pieces = [*letters, "▁c", "ap", "it", "al", "▁cap", "▁capit", "▁capital", "<eos>", "  "]
    kinds = [1] * (len(pieces) - 2) + [CONTROL, USER_DEFINED]
    scores = [-1000.0] * len(letters) + [-1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -90.0, -1000.0, -1000.0]
    backend = Tokenizer(
        Unigram(list(zip(pieces, scores, strict=True)), 0)
    )  # "▁cap", "it", "al" add up to more than -90
    backend.normalizer = Replace(" ", "▁")
    join_by_score(backend, pieces, scores, kinds)
    assert backend.encode(" capital capit  <eos>").tokens == ["▁capital", "▁capit", "  ", "<eos>"]
    assert backend.decode(backend.encode("it<eos>").ids, skip_special_tokens=True) == "it"


def test_a_text_begins_with_a_token_where_the_file_says_so(tmp_path: Path) -> None:
    begins = load(write_gguf(tmp_path / "begins.gguf", random_model(), begins=True), tmp_path / "cache").tokenizer
    assert begins.encode("the") == [begins.bos_token_id, *begins.encode("the", add_special_tokens=False)]


def test_a_converted_model_is_used_again_as_it_lies(file: Path, cache: Path) -> None:
    folder = find_or_convert(str(file), cache)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert load(file, cache).folder == folder
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_weights_are_mapped_not_copied(file: Path, cache: Path) -> None:
    weight = load(file, cache).model.model.embed_tokens.weight
    spans = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if "model.safetensors" in line]
    bounds = [tuple(int(end, 16) for end in span[0].split("-")) for span in spans]
    assert any(low <= weight.data_ptr() < high for low, high in bounds)


def test_the_fingerprint_is_that_of_the_file_and_the_converter(file: Path, cache: Path, monkeypatch) -> None:
    loaded = load(file, cache)
    assert loaded.fingerprint == fingerprint_of(sha256_of(file)) and loaded.folder.name == loaded.fingerprint[:16]
    monkeypatch.setattr(convert, "VERSION", convert.VERSION + 1)
    assert fingerprint_of(sha256_of(file)) != loaded.fingerprint


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_made_again(file: Path, cache: Path, name: str) -> None:
    folder = find_or_convert(str(file), cache)
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[:-9] + b"?" + whole[-8:])
    assert find_or_convert(str(file), cache) == folder and (folder / name).read_bytes() == whole
    assert visible(cache) == {folder.name}


def test_a_missing_file_is_made_again(file: Path, cache: Path) -> None:
    (find_or_convert(str(file), cache) / "model.safetensors").unlink()
    assert load(file, cache).model is not None


def test_a_conversion_that_is_killed_leaves_nothing_that_stays(file: Path, tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", CONVERT, file, tmp_path], cwd=ROOT)
    while not list(tmp_path.glob(".*/new")) and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and [name for name in visible(tmp_path) if name[0] != "."] == []
    folder = find_or_convert(str(file), tmp_path)
    assert visible(tmp_path) == {folder.name}


def test_two_processes_at_once_leave_one_whole_model(file: Path, tmp_path: Path) -> None:
    start = [sys.executable, "-c", CONVERT, str(file), str(tmp_path)]
    both = [subprocess.Popen(start, cwd=ROOT) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert visible(tmp_path) == {fingerprint_of(sha256_of(file))[:16]}
    assert convert.find_converted(str(file), tmp_path)


def test_a_converted_folder_is_readable_for_everybody(file: Path, cache: Path) -> None:
    folder = find_or_convert(str(file), cache)
    assert folder.stat().st_mode & 0o005 == 0o005 and all(p.stat().st_mode & 0o004 for p in folder.iterdir())


# What goes wrong is said in one sentence with the command that mends it


def failure(file: Path, cache: Path) -> str:
    with pytest.raises(ModelNotFound) as error:
        load(file, cache)
    assert str(error.value).count(". ") == 0
    return str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert "nowhere.gguf could not be read: No such file" in failure(tmp_path / "nowhere.gguf", tmp_path)


def cut_header(data: bytes) -> bytes:
    return data[:900]


def cut_weights(data: bytes) -> bytes:
    return data[: len(data) * 2 // 3]


def no_gguf(data: bytes) -> bytes:
    return b"PK" + data


@pytest.mark.parametrize("damage", [cut_header, cut_weights, no_gguf], ids=lambda f: f.__name__)
def test_a_file_that_is_damaged(file: Path, tmp_path: Path, damage) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(damage(file.read_bytes()))
    assert "bad.gguf could not be converted: it is damaged, or" in failure(bad, tmp_path / "cache")
    assert visible(tmp_path / "cache") == set()


def test_an_architecture_that_nobody_knows(tmp_path: Path) -> None:
    other = write_gguf(tmp_path / "other.gguf", random_model(), architecture="abacus")
    assert "its architecture is not known" in failure(other, tmp_path / "cache")


def test_a_cache_that_is_a_file(file: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    assert f"set ENGRAM_CACHE_DIR to a folder that can, then run `{fetch_command()}`" in failure(
        file, tmp_path / "cache"
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [("size=200k", "There is no room for the model in"), ("size=9m,ro", "The model can't be written to")],
)
def test_a_disk_that_is_full_or_read_only(file: Path, tmp_path: Path, options: str, said: str) -> None:
    mount = f"mount -t tmpfs -o {options} none {tmp_path}"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("a small disk can't be mounted here")
    start = f"{mount} && exec {sys.executable} -c '{CONVERT}' {file} {tmp_path}"
    result = subprocess.run(["unshare", "-rm", "sh", "-c", start], cwd=ROOT, capture_output=True, text=True)
    assert said in result.stderr.splitlines()[-1] and f"then run `{fetch_command()}`" in result.stderr


def test_a_whole_model_on_a_read_only_disk_is_enough(file: Path, cache: Path) -> None:
    mount = f"mount --bind {cache} {cache} && mount -o remount,ro,bind {cache}"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("a disk can't be made read-only here")
    start = f"{mount} && exec {sys.executable} -c '{CONVERT}' {file} {cache}"
    subprocess.run(["unshare", "-rm", "sh", "-c", start], cwd=ROOT, check=True)


def test_a_default_model_that_is_not_installed(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(convert, "PACKAGE", "a_package_that_nobody_has")
    with pytest.raises(ModelNotFound, match=f"is not installed; run `{fetch_command()}`"):
        load_model("embedded", cache=tmp_path)


def test_a_default_model_whose_file_is_another_one(file: Path, tmp_path: Path, monkeypatch) -> None:
    package = tmp_path / "weights_of_another"
    package.mkdir()
    (package / "__init__.py").write_text("raise AssertionError('imported')")
    shutil.copy(file, package / convert.GGUF_FILE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(convert, "PACKAGE", package.name)
    with pytest.raises(ModelNotFound, match=f"damaged or of another version; run `{fetch_command()}`"):
        load_model("embedded", cache=tmp_path / "cache")


# The default model itself


def test_the_default_model_is_the_public_one_and_knows_paris() -> None:
    base = load_model("embedded", device="cpu", dtype="float32")
    assert base.fingerprint == convert.EMBEDDED_FINGERPRINT and base.model.num_parameters() == 134_515_008
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    ids = base.tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt")["input_ids"]
    answer = base.model.generate(ids, max_new_tokens=8, do_sample=False)[0, ids.shape[1] :]
    assert base.tokenizer.decode(answer) == "The capital of France is Paris.<|im_end|>"


def test_what_ships_beside_the_default_model_is_found_by_its_fingerprint(tiny, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("core.model.SHIPPED", tmp_path / "shipped")
    (tmp_path / "shipped").mkdir()
    (tmp_path / "shipped" / "prepared.json").touch()
    default = LoadedModel("x", tiny.model, tiny.tokenizer, tiny.device, tiny.dtype, convert.EMBEDDED_FINGERPRINT, None)
    assert prepared_folder(default) == tmp_path / "shipped" and prepared_folder(tiny) is None


def test_a_changed_preparation_is_refused(file: Path, cache: Path) -> None:
    folder = cache / "prepared" / fingerprint_of(sha256_of(file))[:16]
    folder.mkdir(parents=True)
    (folder / "prepared.json").write_text("{}")
    (folder / "SHA256SUMS").write_text(f"{sha256_of(folder / 'prepared.json')}  prepared.json\n")
    load_model(str(file), cache=cache, prepared=cache / "prepared")
    (folder / "prepared.json").write_text("{ }")
    with pytest.raises(ModelNotFound, match=r"prepared\.json is missing or was changed"):
        load_model(str(file), cache=cache, prepared=cache / "prepared")
