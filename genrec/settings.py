"""Settings: which models and templates a recommender uses, and how the LLM ranks."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from genrec.backends.api_settings import ApiSettings
from genrec.backends.engines import DEFAULT_ENGINE, Engine, check_engine
from genrec.backends.placement import Placement, check_device_map
from genrec.errors import InputError, format_value
from genrec.prompting.chat_template import ChatTemplateSettings
from genrec.rankers.generative_settings import GenerativeSettings
from genrec.rankers.listwise_settings import ListwiseSettings

LANGUAGE_MODEL = "SmolLM2-135M-Instruct"
ENCODER_MODEL = "all-MiniLM-L6-v2"
_UNORDERED_TEMPLATES = {"next-item": "unordered-item", "rank-listwise": "unordered-listwise"}
_UNUSED = {"engine": DEFAULT_ENGINE, "chat_template": ChatTemplateSettings()}  # as if not given; else None


@dataclass(frozen=True)
class Settings:
    """Models, templates and search settings of a recommender. The defaults scored best; see eval/RESULTS.md.

    Attributes:
        model: the LLM: the name of a bundled model, a Hub id (`ORGANISATION/NAME`, or with `@REVISION`), a folder with
            weights and tokenizer, or a GGUF file; None for no LLM.
        api: the server of a model behind an API; `model` is then its name there. Such a model ranks by listing the
            numbers of proposed items, see `genrec.rankers.listwise`, and writes texts and preferences like any other.
        adapter: a LoRA adapter for the LLM: a folder, or the name of an embedded data set that ships with one.
        encoder: the sentence encoder: the name of a bundled model, a Hub id, or a folder; None for no encoder.
        text: the columns that make the text by which an item is found and compared; None for the title and every other
            column of words, see `genrec.data.item_texts`. Prompts show what their templates ask for.
        lexical: whether search words find items by their letters, too, see `genrec.rankers.lexical`.
        engine: what runs the LLM: Transformers in this process (`transformers`), vLLM in a process of its own (`vllm`),
            or a vLLM server (`server`), which takes the model's tokenizer from `model`.
        server_url: base URL of the server; its key is in the environment variable `GENREC_MODEL_API_KEY`.
        server_model: the name under which the server serves the model; by default `model`. An adapter is served under
            the name of its folder.
        dtype, device, device_map: the number type of the LLM, and where it is computed; see
            `genrec.backends.placement.Placement`. `device` is that of the encoder, too. vLLM takes `dtype` only.
        trust_remote_code: run Python code in the folders of `model` and `encoder`, if Transformers has no class for
            them. The code can do everything that this process can do.
        template: the prompt of users with a history: a name or a path.
        cold_template: the prompt of users without a history: a name or a path.
        chat_template: arguments, date and name of the model's own chat template.
        list_template: the prompt of a model behind an API: a name or a path.
        generative: how the LLM ranks.
        listwise: how a model behind an API ranks.
        small_search_candidates: number of candidates in the smaller LLM search of the fallback chain.
        background: number of histories over which the prior is averaged.
        compute_priors: compute the prior of the whole catalog when the recommender is opened; otherwise of each item
            when it is first needed. Beam search always computes it when the recommender is opened.

    Raises:
        InputError: the engine does not exist, its URL is missing or not valid, a model behind an API has an adapter or
            another engine, the number type or the device is not one or not one that the engine takes, or a setting of
            a language model is given without one.
    """

    model: str | Path | None = LANGUAGE_MODEL
    api: ApiSettings | None = None
    adapter: str | Path | None = None
    encoder: str | Path | None = ENCODER_MODEL
    text: tuple[str, ...] | None = None
    lexical: bool = True
    engine: Engine = DEFAULT_ENGINE
    server_url: str | None = None
    server_model: str | None = None
    dtype: str | None = None
    device: str | None = None
    device_map: str | Mapping[str, int | str] | None = None
    trust_remote_code: bool = False
    template: str | Path = "next-item"
    cold_template: str | Path = "cold-start"
    chat_template: ChatTemplateSettings = field(default_factory=ChatTemplateSettings)
    list_template: str | Path = "rank-listwise"
    generative: GenerativeSettings = field(default_factory=lambda: GenerativeSettings(fusion_weight=50.0))
    listwise: ListwiseSettings = field(default_factory=ListwiseSettings)
    small_search_candidates: int = 10
    background: int = 3
    compute_priors: bool = False

    def __post_init__(self) -> None:
        """Check the types of names and paths, and what excludes each other."""
        for name in ("model", "adapter", "encoder", "template", "cold_template", "list_template"):
            value = getattr(self, name)
            is_none = value is None and name in ("model", "adapter", "encoder")
            if not (is_none or isinstance(value, str | Path)):
                raise InputError(f"{name} is {format_value(value)}; pass a name or a path")
        if self.text is not None and (
            not isinstance(self.text, tuple) or not all(isinstance(name, str) for name in self.text)
        ):
            raise InputError(f"text is {format_value(self.text)}; pass a tuple of names of columns")
        check_engine(self.engine, self.server_url)
        self._check_use()
        self._check_placement()
        if self.api is not None and self.engine != DEFAULT_ENGINE:
            raise InputError(
                f"engine is {self.engine!r}, but the model is behind the API at {self.api.host}; omit engine or api"
            )
        if self.api is not None and self.adapter is not None:
            raise InputError(
                f"adapter is {str(self.adapter)!r}, which cannot be loaded behind the API at {self.api.host}; omit "
                "adapter, or name a tuned model of the server"
            )

    def _check_use(self) -> None:
        """Check that no setting of a language model is given that nothing would read."""
        if self.server_model is not None and self.engine != "server":
            raise InputError(
                f"server_model is {format_value(self.server_model)}, but engine is {self.engine!r}; set engine to "
                "server, or omit server_model"
            )
        for name in ("adapter", "api", "dtype", "device_map", "engine", "chat_template"):
            value = getattr(self, name)
            if self.model is None and value != _UNUSED.get(name):
                shown = f"is {format_value(value)}" if isinstance(value, str) else "is set"
                raise InputError(f"{name} {shown}, but model is none; name a model, or omit {name}")

    def _check_placement(self) -> None:
        taken = {"transformers": ("dtype", "device", "device_map"), "vllm": ("dtype",), "server": ()}[self.engine]
        for name, value in self.placement.given.items():
            if self.api is not None or name not in taken:
                runs = f"the API at {self.api.host}" if self.api is not None else f"engine {self.engine!r}"
                hint = "; set CUDA_VISIBLE_DEVICES, or omit it" if self.engine == "vllm" else "; omit it"
                raise InputError(f"{name} is {format_value(value)}, and {runs} decides it{hint}")
        if self.adapter is not None:
            check_device_map(self.device_map, self.adapter)

    def without_order(self) -> "Settings":
        """The same settings for interactions without an order: the default prompts, which claim one, are replaced."""
        return replace(
            self,
            template=_UNORDERED_TEMPLATES.get(str(self.template), self.template),
            list_template=_UNORDERED_TEMPLATES.get(str(self.list_template), self.list_template),
        )

    @property
    def placement(self) -> Placement:
        """Where the LLM is computed, and in which number type."""
        return Placement(self.dtype, self.device, self.device_map)

    @property
    def local_model(self) -> str | Path | None:
        """The LLM whose files are needed on this machine; None without one, or if it is behind an API."""
        return None if self.api is not None else self.model
