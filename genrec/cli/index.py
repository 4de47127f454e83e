"""`genrec index`: build and save the token index of a catalog."""

from pathlib import Path
from typing import Annotated, Any

import typer

from genrec.cli import loading, model_downloads, options, terminal
from genrec.cli.chat_template_options import CHAT_TEMPLATE_OPTIONS
from genrec.cli.settings_options import setting_options
from genrec.errors import InputError

group = typer.Typer(help="Build the token index of a catalog.")

Out = Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")]


@group.callback()
def _group() -> None: ...


@group.command()
@options.with_options(options.FILE_OPTIONS, setting_options("model", *CHAT_TEMPLATE_OPTIONS))
def build(
    out: Out,
    data: options.Data = None,
    items: options.Items = None,
    as_json: options.Json = False,
    **given: Any,
) -> None:
    """Save a catalog and its token index to a folder, for `genrec recommend --index OUT`."""
    from genrec.artifact import check_writable
    from genrec.cache import default_cache
    from genrec.index.catalog_index import INDEX_KIND, CatalogIndex
    from genrec.index.identifiers import TitleIdentifiers
    from genrec.loading.language_model import load_tokenizer

    cache, settings = default_cache(), loading.settings_from_options(given)
    if settings.model is None:
        raise InputError("--model none has no tokenizer; name a model, or omit --model")
    source = loading.DataSource.from_options({"data": data, "items": items, **given})
    check_writable(out, kind=INDEX_KIND)
    model_downloads.fetch_hub_models(settings, cache, weights=False)
    with terminal.progress() as progress:
        tokenizer = load_tokenizer(settings, cache)
        progress.start(f"Reading {source.name}")
        catalog, _ = source.read(cache)
        progress.start(f"Tokenising {len(catalog):,} items")
        index = CatalogIndex.build(catalog, TitleIdentifiers(), tokenizer)
        index.save(out)
    for notice in tokenizer.notices:
        terminal.print_notice(f"note: {notice}")
    report = {
        "index": str(out),
        "fingerprint": index.fingerprint,
        "items": len(catalog),
        "tokens": len(index.trie.tokens),
        "longest": int(index.trie.lengths.max()),
        "bytes": sum(path.stat().st_size for path in out.rglob("*") if path.is_file()),
    }
    if as_json:
        terminal.write_json(report)
        return
    mean = len(index.trie.tokens) / len(catalog)
    terminal.stdout_console().print(
        f"{report['items']:,} items, {report['tokens']:,} tokens ({mean:.1f} per item, at most {report['longest']}); "
        f"{report['bytes']:,} bytes in {terminal.sanitize_line(str(out))}"
    )
