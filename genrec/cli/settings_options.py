"""Command-line options of `Settings` and the settings within it: one row for each field, for all commands.

The rows are static, because importing the dataclasses would load numpy and slow down `genrec --help`. A test holds
names, types and defaults equal to those of the dataclass fields. An option that is not given is None, which stands for
the default of the field.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any

import typer

MODEL_PANEL, RANKER_PANEL, API_PANEL = "Model", "Ranker", "API"


@dataclass(frozen=True)
class SettingOption:
    """The option of a field.

    Attributes:
        value_type: str, int, float or bool; list[str] for an option that can be repeated.
        default: the field's default.
        help: what the setting does.
        metavar: the placeholder of the value; "" for the name of its type.
        panel: the section of the help page.
        alias: a former flag, kept for one release.
    """

    value_type: Any
    default: object
    help: str
    metavar: str = ""
    panel: str = RANKER_PANEL
    alias: str = ""

    @property
    def shown_default(self) -> str | bool:
        """The default as the help page shows it; False if there is none. That of a switch that is off is not shown."""
        return False if self.default in (None, False) else str(self.default)

    def annotation(self, name: str) -> Any:
        """The annotated type that makes typer add the option to a command."""
        flag = name.replace("_", "-")
        flags = [f"--{flag}/--no-{flag}" if self.value_type is bool else f"--{flag}"]
        option = typer.Option(
            *flags,
            *([self.alias] if self.alias else []),
            metavar=self.metavar or None,
            help=self.help,
            show_default=flag if self.default is True else self.shown_default,
            rich_help_panel=self.panel,
        )
        return Annotated[self.value_type | None, option]


SETTING_OPTIONS: Mapping[str, SettingOption] = MappingProxyType(
    {
        "model": SettingOption(
            str,
            "SmolLM2-135M-Instruct",
            "Language model: a bundled model's name, a Hub id, a folder, a GGUF file, or none.",
            "NAME",
            MODEL_PANEL,
        ),
        "api_url": SettingOption(
            str,
            None,
            "Base URL of the OpenAI-compatible API that serves --model, such as http://localhost:11434/v1; its key is "
            "read from the environment variable GENREC_MODEL_API_KEY.",
            "URL",
            API_PANEL,
        ),
        "api_timeout": SettingOption(
            float,
            60.0,
            "Time limit in seconds for one attempt, and for one wait at a rate limit.",
            "",
            API_PANEL,
        ),
        "api_max_concurrency": SettingOption(
            int, 8, "Maximum number of concurrent requests to the API.", "", API_PANEL
        ),
        "api_context_length": SettingOption(
            int, 32_768, "The model's context in tokens; a prompt may have at most as many bytes.", "", API_PANEL
        ),
        "api_reasoning_tokens": SettingOption(
            int, 0, "Tokens added to the length limit of each answer, for models that reason first.", "", API_PANEL
        ),
        "api_input_price": SettingOption(
            float, 0.0, "Price per million prompt tokens, from which the cost of a list is computed.", "", API_PANEL
        ),
        "api_output_price": SettingOption(
            float, 0.0, "Price per million generated tokens, from which the cost of a list is computed.", "", API_PANEL
        ),
        "window": SettingOption(int, 50, "Maximum number of candidates in one prompt.", "", API_PANEL),
        "window_step": SettingOption(
            int,
            25,
            "Number of candidates by which the window moves if there are more; less than --window.",
            "",
            API_PANEL,
        ),
        "list_template": SettingOption(
            str,
            "rank-listwise",
            "Prompt template for ranking: a shipped template's name, or a .j2 file.",
            "NAME",
            API_PANEL,
        ),
        "adapter": SettingOption(
            str,
            None,
            "LoRA adapter for the model: a folder written by finetune.train, or online-retail for the bundled adapter.",
            "FOLDER",
            MODEL_PANEL,
        ),
        "encoder": SettingOption(
            str,
            "all-MiniLM-L6-v2",
            "Sentence encoder: a bundled model's name, a Hub id, a folder, or none.",
            "NAME",
            MODEL_PANEL,
        ),
        "text": SettingOption(
            str,
            None,
            "Columns by which items are searched and compared, such as title,description,genres; by default the title "
            "and every other column of words.",
            "COLUMNS",
        ),
        "lexical": SettingOption(bool, True, "Find items by the letters of search words, too."),
        "engine": SettingOption(
            str,
            "transformers",
            "Engine of the language model: Transformers in this process (transformers), vLLM in a separate process "
            "(vllm), or the vLLM server at --server-url (server).",
            "CHOICE",
            MODEL_PANEL,
        ),
        "server_url": SettingOption(
            str,
            None,
            "Base URL of the vLLM server, such as http://127.0.0.1:8000; its key is read from the environment variable "
            "GENREC_MODEL_API_KEY.",
            "URL",
            MODEL_PANEL,
        ),
        "server_model": SettingOption(
            str, None, "Name of the model on the server; by default that of --model.", "NAME", MODEL_PANEL
        ),
        "dtype": SettingOption(
            str,
            None,
            "Number type of the language model: bfloat16, float16 or float32; by default bfloat16 if the device "
            "supports it, else float32.",
            "CHOICE",
            MODEL_PANEL,
        ),
        "device": SettingOption(
            str,
            None,
            "Torch device of the models, such as cpu or cuda:1; by default the first GPU, else the CPU.",
            "DEVICE",
            MODEL_PANEL,
        ),
        "device_map": SettingOption(
            str,
            None,
            "Distribute the language model over several devices: auto, balanced, balanced_low_0 or sequential.",
            "CHOICE",
            MODEL_PANEL,
        ),
        "trust_remote_code": SettingOption(
            bool,
            False,
            "Run Python code from the model folders if a model needs it. The code has all your permissions.",
            panel=MODEL_PANEL,
        ),
        "template": SettingOption(
            str,
            "next-item",
            "Prompt template for users with a history: a shipped template's name, or a .j2 file.",
            "NAME",
            MODEL_PANEL,
        ),
        "cold_template": SettingOption(
            str,
            "cold-start",
            "Prompt template for users without a history: a shipped template's name, or a .j2 file.",
            "NAME",
            MODEL_PANEL,
        ),
        "chat_template_arg": SettingOption(
            list[str],
            None,
            "Argument of the model's own chat template, such as enable_thinking=true; can be repeated. The value is "
            "JSON or text.",
            "NAME=VALUE",
            MODEL_PANEL,
        ),
        "chat_template_date": SettingOption(
            str,
            "2025-01-01",
            "Date that the model's chat template shows as today's. It is fixed, because a prompt that changes every "
            "day invalidates prompt caches.",
            "DATE",
            MODEL_PANEL,
        ),
        "chat_template_name": SettingOption(
            str,
            None,
            "Name of the model's chat template, if the model has several; by default the one named default.",
            "NAME",
            MODEL_PANEL,
        ),
        "strategy": SettingOption(
            str,
            "candidates",
            "How the language model ranks: score the candidates of another ranker (candidates), beam search over the "
            "catalog (beam), or score the whole catalog (exhaustive).",
            "CHOICE",
        ),
        "score": SettingOption(
            str,
            "model",
            "Score of a title: log-probability over the full vocabulary (model), or over the allowed next tokens "
            "(catalog).",
            "CHOICE",
        ),
        "prior": SettingOption(
            float, 1.0, "Weight of the prior, which is subtracted: the item's mean score after other users' histories."
        ),
        "fusion_weight": SettingOption(
            float,
            50.0,
            "Weight of the retriever's score, which is added to the model's score of a candidate.",
            alias="--evidence",
        ),
        "candidates": SettingOption(int, 50, "Number of candidates that the retriever returns and the model scores."),
        "width": SettingOption(int, 8, "Beam width."),
        "exact": SettingOption(bool, True, "Continue the beam search until the top k is proven."),
        "max_nodes": SettingOption(int, 2000, "Maximum number of tokens computed to prove the top k."),
        "min_history": SettingOption(
            int, 1, "Minimum number of history items for the language model to rank; search words count as a history."
        ),
        "max_history": SettingOption(int, 12, "Maximum number of history items in the prompt; the newest are kept."),
        "history_step": SettingOption(
            int, 4, "Number of items dropped together when a history outgrows the prompt; 1 is a sliding window."
        ),
        "background": SettingOption(int, 3, "Number of other users' histories over which the prior is averaged."),
        "batch_size": SettingOption(
            int, None, "Number of prompts computed at once; by default 1 on a CPU, otherwise 8."
        ),
        "memory": SettingOption(
            float,
            None,
            "Memory limit of a batch in bytes, such as 4e9; larger batches are rejected.",
            "BYTES",
        ),
    }
)


def setting_options(*names: str) -> dict[str, Any]:
    """Annotated types of the options by field name, by default of all fields; see `options.with_options`."""
    return {name: SETTING_OPTIONS[name].annotation(name) for name in names or SETTING_OPTIONS}
