"""`genrec prompt`: prompt templates, and the prompts that they render."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genrec.cli import loading, model_downloads, options, terminal, user_options
from genrec.cli.chat_template_options import CHAT_TEMPLATE_OPTIONS
from genrec.cli.settings_options import setting_options
from genrec.errors import ArtifactError, InputError

if TYPE_CHECKING:
    from genrec.data.catalog import Catalog
    from genrec.notices import Notice
    from genrec.prompting.renderer import RenderedPrompt
    from genrec.prompting.template import Prompt, Template
    from genrec.prompting.tokenizer import Tokenizer
    from genrec.settings import Settings
    from genrec.types import IntArray, Message

group = typer.Typer(help="List and render prompt templates.")

_UNLIMITED_TOKENS = 1 << 40  # token budget of a prompt without a model
_SETTINGS = ("model", "max_history", "history_step", *CHAT_TEMPLATE_OPTIONS)
_DATA_MARKERS = "⟦⟧"

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of a shipped template, or a .j2 file.")]
CandidateItems = Annotated[
    list[str] | None,
    typer.Option(
        "--candidate", metavar="ITEM", help="Candidate item, for templates that list candidates; can be repeated."
    ),
]
Tokens = Annotated[bool, typer.Option("--tokens", help="Also show the token ids of the model's tokenizer.")]


@group.callback()
def _group() -> None: ...


@group.command("list")
def list_templates(as_json: options.Json = False) -> None:
    """List the templates that ship with genrec."""
    from rich.table import Table

    from genrec.prompting.template import read_template, template_names

    templates = [read_template(name) for name in template_names()]
    if as_json:
        names = ("name", "version", "inputs", "output", "fingerprint")
        terminal.write_json([{name: getattr(template, name) for name in names} for template in templates])
        return
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for heading in ("name", "version", "inputs", "output"):
        table.add_column(heading)
    for template in templates:
        table.add_row(template.name, str(template.version), ", ".join(template.inputs), template.output)
    terminal.stdout_console().print(table)


@group.command()
@options.with_options(options.DATA_OPTIONS, setting_options(*_SETTINGS))
def render(
    name: Name,
    user: user_options.User = None,
    words: options.Words = None,
    history: options.History = None,
    candidate: CandidateItems = None,
    tokens: Tokens = False,
    as_json: options.Json = False,
    **given: Any,
) -> None:
    """Render a template for a user; text from the data is marked with ⟦ ⟧."""
    from genrec.cache import default_cache
    from genrec.prompting.template import read_template

    user_options.check_user(user, history)
    template = read_template(name)
    cache = default_cache()
    catalog, events = loading.DataSource.from_options(given).read(cache)
    with loading.translate_option_errors(new_user="--history or --words"):
        shown = catalog.indices_of(user_options.history_of(user, history, events))
        offered = catalog.indices_of(candidate or ())
    settings = loading.settings_from_options(given)
    if not set(template.inputs) <= {"history", "words", "candidates"}:
        if tokens:
            raise InputError(f"template {template.name!r} is not a ranking prompt; omit --tokens")
        _print(template, _render_text_template(template, catalog, shown, words or "", offered), None, (), as_json)
        return
    rendered = _render(template, catalog, shown, words or "", offered, settings, tokens)
    token_ids = rendered.token_ids.tolist() if tokens else None
    _print(template, rendered.prompt, token_ids, rendered.notices, as_json)


def _render(
    template: "Template",
    catalog: "Catalog",
    history: "IntArray",
    words: str,
    candidates: "IntArray",
    settings: "Settings",
    count_tokens: bool,
) -> "RenderedPrompt":
    """Render as the ranker does; the model's tokenizer is loaded only if tokens are shown."""
    from genrec.prompting.renderer import Renderer

    tokenizer, budget = (
        _tokenizer_and_budget(catalog, settings) if count_tokens else (_NullTokenizer(), _UNLIMITED_TOKENS)
    )
    window = (settings.generative.max_history, settings.generative.history_step)
    renderer = Renderer(catalog, tokenizer, template, budget, *window)
    rendered = renderer.render(history, words, candidates)
    return replace(rendered, notices=(*tokenizer.notices, *rendered.notices))


def _tokenizer_and_budget(catalog: "Catalog", settings: "Settings") -> "tuple[Tokenizer, int]":
    """The model's tokenizer, and the maximum length of a prompt, which leaves room for the longest item."""
    from genrec.backends.context_length import read_context_length
    from genrec.cache import default_cache
    from genrec.loading.language_model import find_model_files
    from genrec.precomputed import open_index

    if settings.model is None:
        raise InputError("--model none has no tokens to show; name a model, or omit --tokens")
    cache = default_cache()
    model_downloads.fetch_hub_models(settings, cache, weights=False)
    files = find_model_files(settings, cache, weights=False)
    folder, tokenizer = files.folder, files.tokenizer
    with terminal.progress() as progress:
        longest = int(open_index(catalog, tokenizer, cache, progress).trie.lengths.max())
    try:
        return tokenizer, read_context_length(folder) - longest
    except (OSError, ValueError) as error:
        raise ArtifactError(f"cannot read {folder / 'config.json'}: {error}; download the model again") from error


class _NullTokenizer:
    """A tokenizer for rendering without a model: every prompt has 0 tokens, and so fits."""

    fingerprint = chat_template_fingerprint = ""
    vocab_size = eos_token_id = 0
    control_token_ids: tuple[int, ...] = ()
    notices = ()

    def __init__(self) -> None:
        self.answer_end = self.encode_text("")

    def encode_text(self, text: str) -> "IntArray":
        import numpy as np

        return np.empty(0, dtype=np.int64)

    def encode_answer(self, text: str) -> "IntArray":
        return self.encode_text(text)

    def encode_prompt(self, prompt: "Sequence[Message]") -> "IntArray":
        return self.encode_text("")

    def decode(self, token_ids: "Sequence[int]") -> str:
        return ""

    def token_texts(self) -> list[str]:
        return []


def _render_text_template(
    template: "Template", catalog: "Catalog", history: "IntArray", words: str, candidates: "IntArray"
) -> "Prompt":
    """Render a template for texts; the newest history items are the drivers, and the first candidate is the item.

    A format of answers is shown for a JSON Schema of any text.
    """
    from genrec.prompting.renderer import item_variables

    newest = [catalog[int(item)].title for item in history[::-1][:2]]
    values = {
        "drivers": [{"title": title} for title in newest],
        "words": words,
        "said": words,
        "wishes": [words] if words else [],
        "items": [{**item_variables(catalog, int(item)), "facts": []} for item in candidates],
        "history": [item_variables(catalog, int(item)) for item in history],
        "item": item_variables(catalog, int(candidates[0]) if len(candidates) else 0),
        "schema": '{"type": "string"}',
        "grammar": "",
        "problem": "",
    }
    return template.render(**{name: value for name, value in values.items() if name in template.inputs})


def _print(
    template: "Template", prompt: "Prompt", token_ids: list[int] | None, notices: "Sequence[Notice]", as_json: bool
) -> None:
    if as_json:
        messages = [
            {"role": message.role, "text": message.text, "spans": [asdict(span) for span in message.spans]}
            for message in prompt
        ]
        report: dict[str, Any] = {
            "template": {"name": template.name, "version": template.version, "fingerprint": template.fingerprint},
            "messages": messages,
            "notices": [str(notice) for notice in notices],
        }
        if token_ids is not None:
            report |= {"tokens": len(token_ids), "token_ids": token_ids}
        terminal.write_json(report)
        return
    from rich.text import Text

    console = terminal.stdout_console()
    for message in prompt:
        console.print(Text(message.role, style="bold cyan"))
        text = Text()
        for span in message.spans:
            if span.trusted:
                text.append(span.text)
            else:
                text.append(
                    f"{_DATA_MARKERS[0]}{terminal.sanitize_line(span.text, max_length=10_000)}{_DATA_MARKERS[1]}",
                    style="yellow",
                )
        console.print(text, soft_wrap=True)
        console.print()
    for notice in notices:
        terminal.print_notice(f"note: {notice}")
    if token_ids is not None:
        console.print(Text(f"{len(token_ids):,} tokens", style="bold cyan"))
        console.print(" ".join(map(str, token_ids)), soft_wrap=True)
