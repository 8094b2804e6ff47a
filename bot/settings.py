"""Everything that can be set from outside: variables ENGRAM_... or lines of a file `.env`. Only this reads them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from bot.quotas import QuotaConfig
from core.document.ocr import MAX_PAGES, Ocr
from core.errors import SetupError
from core.types import Limits

if TYPE_CHECKING:
    from core.engine import EngineConfig
    from core.learning.adapters.remote import RemoteWriter

PREFIX = "ENGRAM_"
ENV_FILE = Path(".env")
ENGINE = (  # settings that the engine knows by the same name; those that were set come before the preset's
    "model", "learner", "effort", "device", "dtype", "chunk_size", "budget", "batch_tokens", "memory_mb", "study",
    "objectives", "check", "guard", "votes",
)  # fmt: skip


class Settings(BaseSettings):
    """One line a setting: ENGRAM_DATA_DIR sets `data_dir`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=ENV_FILE,
        env_ignore_empty=True,
        env_nested_delimiter="__",
        extra="ignore",
        frozen=True,
    )

    data_dir: Path = Path("data")  # index and weights, relative to the working directory; one process at a time
    # postgresql://...: the index is there, and any number of front ends and workers share it
    database_url: SecretStr | None = None
    objects: str = ""  # s3://bucket/prefix: the weights there instead of in the data folder
    # encryption keys for PostgreSQL and the object store: a shared folder or s3://bucket/prefix; empty: DATA_DIR/keys
    keys: str = ""
    cache_dir: Path = Field(default_factory=lambda: user_cache() / "engram")  # converted models; processes share it

    # The engine
    preset: str = ""  # "cpu", "t4", "h200": values for what is not set here (core/presets)
    # the one that Engram comes with, or a Hugging Face id, a folder or a .gguf file of a causal LM
    model: str = "embedded"
    learner: str = "fast-weights"  # or "lora", "ttt-linear", "ttt-mlp"
    # how long adapters study a document, and with how many questions it is checked
    effort: Literal["quick", "standard", "deep"] = "standard"
    budget: str = ""  # compute on each section: "fixed:1", "threshold:4"; empty: as the model was prepared
    device: str = "auto"  # or "cpu", "cuda", "cuda:1", "mps"
    chunk_size: int | None = Field(None, gt=0)  # tokens of a section; empty: as the model was prepared
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    batch_tokens: int | None = Field(None, gt=0)  # tokens learned at once; empty: one section on a CPU, 16,384 on a GPU
    memory_mb: int | None = Field(None, gt=0)  # learning stays below it, where it can
    study: bool = False  # adapters: the model writes study material first
    objectives: dict[str, float] = {}  # adapters: weights, as JSON: {"keep": 1.0}
    check: bool = True  # after learning the model asks itself about the document
    guard: bool = True  # undo learning that damages other answers
    # ways in which a question is asked; the answer that most of them agree on is given; time grows with it
    votes: int = Field(1, ge=1, le=9)
    question_writer_url: str = ""  # an OpenAI-compatible endpoint writes the questions: DOCUMENTS LEAVE THE MACHINE
    question_writer_model: str = ""  # model name at that endpoint
    question_writer_key: SecretStr | None = None  # its API key

    # Answers
    min_confidence: float = Field(0.0, ge=0, le=1)  # answers with a lower mean token probability are not shown
    ground: bool = False  # put a section's text into the prompt beside its weights: better answers
    keep_text: bool = True  # for citations; without it only the words to find a section by are kept

    # What a document may be
    max_pages: int = Field(Limits.max_pages, gt=0)  # read at once; a longer document is refused
    max_bytes: int = Field(Limits.max_bytes, gt=0)  # of the file
    # tokens of a document's text (about 200 pages); a longer one is refused
    max_tokens: int = Field(Limits.max_tokens, gt=0)
    min_tokens: int = Field(Limits.min_tokens, ge=1)  # a document with fewer tokens is refused

    links: bool = False  # open links to public addresses that people send, and learn what is there
    # of scans, as Tesseract has them: eng+deu
    ocr_languages: str = Field("eng", pattern=r"^[A-Za-z_]+(\+[A-Za-z_]+)*$")
    ocr_pages: int = Field(MAX_PAGES, ge=0)  # of a scan that are recognised; 0: none

    # Platforms
    discord_token: SecretStr | None = None  # of the application's bot
    # the privileged intent; with it, questions in the bot's threads need no mention
    discord_message_content: bool = False
    # number of gateway shards, shared by all `serve` processes; 0: Discord's advice, in one process
    discord_shards: int = Field(0, ge=0)
    slack_bot_token: SecretStr | None = None  # begins with xoxb-
    slack_app_token: SecretStr | None = None  # begins with xapp-; for Socket Mode
    slack_http_port: int | None = Field(None, gt=0, le=65535)  # listen for Slack's requests instead of Socket Mode
    slack_http_host: str = "127.0.0.1"  # address to listen on
    slack_signing_secret: SecretStr | None = None  # for HTTP mode
    slack_client_id: str | None = None  # for OAuth: workspaces install the app themselves; HTTP mode, no bot token
    slack_client_secret: SecretStr | None = None  # for OAuth
    slack_base_url: str = "https://slack.com/api/"  # Slack's API

    source_url: str = ""  # this bot's source, for /about; PyMuPDF's licence (AGPL) asks modified services for it
    quotas: QuotaConfig = QuotaConfig()  # ENGRAM_QUOTAS__USER_UPLOADS_PER_HOUR and so on

    # Running
    log_level: Literal["debug", "info", "warning", "error"] = "info"  # lowest level that is logged
    log_format: Literal["console", "json"] = "console"  # lines for people or for machines
    metrics_port: int | None = Field(None, gt=0, le=65535)  # port for Prometheus metrics; unset: off
    metrics_host: str = "127.0.0.1"  # address to serve them on
    trace_url: str = ""  # OpenTelemetry's traces go there over OTLP/HTTP, or "console": to standard error

    @field_validator("*", mode="before")
    @classmethod
    def _unquoted(cls, value: Any) -> Any:
        """`docker run --env-file` keeps the quotes that a shell takes away."""
        match = re.fullmatch(r"(['\"])(.*)\1", value, re.DOTALL) if isinstance(value, str) else None
        return match[2] if match else value

    @field_validator("data_dir", "cache_dir")
    @classmethod
    def _at_home(cls, folder: Path) -> Path:
        return folder.expanduser()

    @field_validator("device")
    @classmethod
    def _known_device(cls, name: str) -> str:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name):
            raise ValueError("choose auto, cpu, cuda, cuda:1 and so on, or mps")
        return name

    @property
    def proxy(self) -> str | None:
        """For platforms whose library does not look for it by itself."""
        return os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy") or None

    @property
    def limits(self) -> Limits:
        return Limits(self.max_pages, self.max_bytes, self.max_tokens, self.min_tokens)

    @property
    def ocr(self) -> Ocr:
        return Ocr(languages=self.ocr_languages, pages=self.ocr_pages)

    @property
    def engine(self) -> EngineConfig:
        from core.engine import EngineConfig

        given = {name: getattr(self, name) for name in ENGINE if name in self.model_fields_set}
        return EngineConfig.from_preset(
            self.preset,
            **given,
            question_writer=self._question_writer(),
            prepared=self.data_dir / "prepared",
            cache=self.cache_dir,
        )

    def _question_writer(self) -> RemoteWriter | None:
        from core.learning.adapters.remote import RemoteWriter

        if not self.question_writer_url:
            return None
        key = self.question_writer_key.get_secret_value() if self.question_writer_key else ""
        return RemoteWriter(self.question_writer_url, self.question_writer_model, key)


def user_cache() -> Path:
    """Where the system keeps what programs can make again."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    return Path(given) if given.startswith("/") else Path(os.path.expanduser("~/.cache"))


def limit_kernel_cache() -> None:
    """Let oneDNN keep 64 compiled products instead of 1,024; before its first one. It compiles one for each shape, and
    every document and question has shapes of its own: 0.55 MB each, 6 to 30 MB a document of two pages, so that
    memory grew for hours. To compile one again takes 0.4 ms, and a document has about 50."""
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")


def load_settings(**given: Any) -> Settings:
    """Settings from the environment; what is given here, and not None, comes first. Raises: SetupError."""
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        name = PREFIX + "__".join(str(part) for part in wrong["loc"]).upper()
        value = "" if isinstance(wrong["input"], SecretStr) or "TOKEN" in name or "SECRET" in name else wrong["input"]
        said = f" {str(value)[:60]!r} is not possible" if value != "" else " is wrong"
        sentence = wrong["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
        raise SetupError(f"{name}:{said}; {sentence}.") from None
    except UnicodeDecodeError:
        raise SetupError(f"The file {ENV_FILE} is not UTF-8; save it as that.") from None
    except OSError as error:
        raise SetupError(f"The file {ENV_FILE} can't be read.") from error
    except ValueError as error:  # pydantic-settings: what should be JSON is not
        raise SetupError(f"A setting can't be understood: {str(error).splitlines()[0]}.") from None


def unknown_variables() -> list[str]:
    """Variables that look like settings and are none, one sentence each."""
    known = [PREFIX + name.upper() for name in Settings.model_fields]
    known += [f"{PREFIX}QUOTAS__{field.name.upper()}" for field in fields(QuotaConfig)]
    sentences = []
    for name in sorted({name.upper() for name in _variables()} - {*known}):
        guesses = get_close_matches(name, known, n=1)
        sentences.append(f"{name} is no setting." + (f" Did you mean {guesses[0]}?" if guesses else ""))
    return sentences


def _variables() -> Iterator[str]:
    yield from (name for name in os.environ if name.upper().startswith(PREFIX))
    if ENV_FILE.is_file():
        text = ENV_FILE.read_text(errors="replace")
        yield from re.findall(rf"^\s*(?:export\s+)?({PREFIX}\w+)\s*=", text, re.MULTILINE | re.IGNORECASE)
