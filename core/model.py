"""The base model: finding it, loading it, its device and dtype, its fingerprint. The one home of transformers."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.convert import (
    DEFAULT,
    EMBEDDED_FINGERPRINT,
    find_converted,
    find_or_convert,
    fingerprint_of,
    is_gguf,
    read_source,
)
from core.errors import ModelNotFound
from core.files import sha256_of
from core.search.parameters import RankingParameters, load_parameters

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

SHIPPED = Path(__file__).parent / "embedded"  # what `prepare` learned about the default model
CACHE = Path("~/.cache/engram")  # of converted models, where no other is given
POLICY = "budget.safetensors"  # how much to compute, trained for a model; beside its prepared weights
SEARCH = "search.safetensors"  # which section a question is about, likewise


@dataclass
class LoadedModel:
    """A base model on its device, in evaluation mode."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    device: torch.device
    dtype: torch.dtype
    fingerprint: str  # sha256 over the weights' files and the tokenizer, or of the file that they were converted from
    folder: Path | None  # where its files lie, when they lie in one folder
    prepared: Path | None = None  # where preparations of models lie that do not bring their own

    @property
    def ranking(self) -> RankingParameters:
        """The numbers of the search that were fitted to its preparation; read from the disk."""
        return load_parameters(prepared_folder(self))


def prepared_folder(base: LoadedModel) -> Path | None:
    """Where `prepare` left what it learned about learning with this base model; None when it never ran."""
    places = [
        base.folder,
        base.prepared / base.fingerprint[:16] if base.prepared else None,
        SHIPPED if base.fingerprint == EMBEDDED_FINGERPRINT else None,
    ]
    return next((p for p in places if p and (p / "prepared.json").exists()), None)


def preparation_digest(base: LoadedModel) -> str:
    """sha256 over the preparation, the search head left out; "" without one. What was learned with one preparation
    means nothing to another."""
    folder = prepared_folder(base)
    if folder is None:
        return ""
    digest = hashlib.sha256()
    for name in ("prepared.json", "prepared.safetensors"):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()


def find_folder(name: str, cache: Path | None = None) -> Path | None:
    """Where the model's files lie, converted first where they have to be; None for a hub id. Raises: ModelNotFound."""
    if is_gguf(name):
        return find_or_convert(name, cache or CACHE.expanduser())
    return Path(name) if Path(name).is_dir() else None


def find_beside_import(module: str, name: str, cache: Path | None = None) -> Path | None:
    """`find_folder`, while a module is imported: that takes seconds of one processor, so another checks the files."""
    with ThreadPoolExecutor(1) as pool:
        converted = pool.submit(find_converted, name, cache or CACHE.expanduser()) if is_gguf(name) else None
        import_module(module)
    return (converted and converted.result()) or find_folder(name, cache)


def load_tokenizer(name: str, cache: Path | None = None) -> Any:
    """The model's tokenizer alone, with `.encode(text).ids`; neither torch nor transformers is imported, but where a
    GGUF file has to be converted first.

    Raises: ModelNotFound.
    """
    from tokenizers import Tokenizer

    folder = find_folder(name, cache)
    try:
        if folder:
            return Tokenizer.from_file(str(folder / "tokenizer.json"))
        return Tokenizer.from_pretrained(name)
    except Exception as error:
        raise ModelNotFound(_how_to_fix(name)) from error


def load_model(
    name: str = "embedded",
    *,
    device: str = "auto",
    dtype: str = "auto",
    prepared: Path | None = None,
    cache: Path | None = None,
    folder: Path | None = None,
    light: bool = False,
) -> LoadedModel:
    """Load a causal LM: "embedded", a folder, a GGUF file, or a hub id. No remote code.

    Args:
        prepared: where `prepare` leaves what it learned about models.
        cache: where GGUF files, the embedded model's among them, are kept converted.
        folder: what `find_folder` found, where it was called before.
        light: the embedded model on a CPU by `core.llama`, which computes the same: to import transformers takes longer
            than all else.

    Raises: ModelNotFound.
    """
    from safetensors import SafetensorError

    place = pick_device(device)
    kind = pick_dtype(dtype, place)
    light = light and name == DEFAULT and place.type == "cpu"
    folder = folder or find_folder(name, cache)
    if folder:
        check_sums(folder)
    try:
        if folder and light:
            model, tokenizer = _load_light(folder, kind)
        elif folder and read_source(folder):
            model, tokenizer = _load_converted(folder, kind)
        else:
            model, tokenizer = _load_any(str(folder or name), kind, place)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:  # wrong shapes
        raise ModelNotFound(_how_to_fix(name)) from error
    model.to(place).eval().requires_grad_(False)
    base = LoadedModel(name, model, tokenizer, place, kind, fingerprint(name, folder, model), folder, prepared)
    if (preparation := prepared_folder(base)) not in (None, folder):
        check_sums(preparation)
    return base


def _load_light(folder: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    from core.llama import ChatTokenizer, load_llama

    return load_llama(folder, dtype), ChatTokenizer(folder)


def _load_converted(folder: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """What core.convert wrote, memory-mapped, by the classes that it names: the Auto ones take time to choose."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    architecture = json.loads((folder / "config.json").read_text())["architectures"][0]
    model = getattr(transformers, architecture).from_pretrained(str(folder), dtype=dtype, local_files_only=True)
    options = json.loads((folder / "tokenizer_config.json").read_text())
    return model, transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **options)


def _load_any(name: str, dtype: torch.dtype, device: torch.device) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A folder or a hub id, in safetensors only."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    model, info = AutoModelForCausalLM.from_pretrained(  # accelerate places the weights straight on the device
        name,
        dtype=dtype,
        device_map={"": device},
        trust_remote_code=False,
        use_safetensors=True,
        output_loading_info=True,
    )
    if missing := set(info["missing_keys"]) - set(model.all_tied_weights_keys):
        raise ValueError(f"weights are missing: {sorted(missing)[:3]}")
    return model, tokenizer


def check_sums(folder: Path) -> None:
    """A model that comes with SHA256SUMS is loaded only when each file is the one that they name (0.1 s for 50 MB).

    Raises: ModelNotFound.
    """
    sums = folder / "SHA256SUMS"
    for line in sums.read_text().splitlines() if sums.is_file() else ():
        digest, _, name = line.partition("  ")
        try:
            same = sha256_of(folder / name) == digest
        except OSError:
            same = False
        if not same:
            raise ModelNotFound(f"The model's file {name} is missing or was changed; install the model again.")


def _how_to_fix(name: str) -> str:
    return (
        f"The base model '{name}' could not be loaded: give a folder or a hub id of a causal LM with safetensors "
        "weights, and check the network if it has to be downloaded, or a .gguf file, or set ENGRAM_MODEL=embedded."
    )


def pick_device(name: str = "auto") -> torch.device:
    """cuda, then mps, then cpu."""
    import torch

    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """bfloat16 where the GPU or the CPU computes in it, float16 on other GPUs (T4), float32 elsewhere."""
    import torch

    if name != "auto":
        return getattr(torch, name)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "cpu":
        able = torch.cpu.get_capabilities()
        return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") else torch.float32
    return torch.float32


def fingerprint(name: str, folder: Path | None, model: PreTrainedModel) -> str:
    """sha256 that names a base model: of the file that it was converted from, else over its files where they lie in a
    folder, else over its tensors. A budget policy and a search head are not among them: they say how much is learned,
    and where to look, not what weights mean that were learned before."""
    if folder and (source := read_source(folder)):
        return fingerprint_of(source["gguf"])
    files = []
    for path in sorted(folder.iterdir()) if folder else ():
        is_weights = path.suffix == ".safetensors" and path.name not in (POLICY, SEARCH)
        if is_weights or path.name in ("config.json", "tokenizer.json"):
            files.append(path)
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    if not files:
        digest.update(name.encode())
        for key, tensor in sorted(model.state_dict().items()):
            import torch

            digest.update(key.encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
