"""`genrec index`: a catalog in tokens, saved."""

from pathlib import Path
from typing import Annotated

import typer

from genrec.cli import loading, options, terminal
from genrec.errors import InputError

group = typer.Typer(help="A catalog written in a model's tokens.")

Out = Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")]


@group.callback()
def _group() -> None: ...


@group.command()
def build(
    out: Out,
    data: options.Data = None,
    items: options.Items = None,
    columns: options.Columns = None,
    model: options.Model = None,
    as_json: options.Json = False,
) -> None:
    """Save a catalog with its index, whole or not at all; `genrec recommend --index OUT` reads it."""
    from genrec.cache import default_cache
    from genrec.index.catalog_index import CatalogIndex
    from genrec.index.identifiers import TitleIdentifiers
    from genrec.loading import find_model_directory
    from genrec.prompting.tokenizer import HuggingFaceTokenizer

    cache, name = default_cache(), loading.settings_from_options({"model": model}).model
    if name is None:
        raise InputError("--model none has no tokens to write a catalog in; name a model, or leave --model out")
    with terminal.progress() as progress:
        named = loading.DataSource.from_options(data, items, None, columns)
        progress.start(f"reading {named.name}")
        catalog, _ = named.read(cache)
        tokenizer = HuggingFaceTokenizer.from_directory(find_model_directory(name, cache))
        progress.start(f"writing {len(catalog):,} items in tokens")
        index = CatalogIndex.build(catalog, TitleIdentifiers(), tokenizer)
        index.save(out)
    facts = {
        "index": str(out),
        "fingerprint": index.fingerprint,
        "items": len(catalog),
        "tokens": len(index.trie.tokens),
        "longest": int(index.trie.lengths.max()),
        "bytes": sum(path.stat().st_size for path in out.rglob("*") if path.is_file()),
    }
    if as_json:
        terminal.write_json(facts)
        return
    mean = len(index.trie.tokens) / len(catalog)
    terminal.stdout_console().print(
        f"{facts['items']:,} items in {facts['tokens']:,} tokens, {mean:.1f} an item and {facts['longest']} at most; "
        f"{facts['bytes']:,} bytes in {terminal.sanitize_line(str(out))}"
    )
