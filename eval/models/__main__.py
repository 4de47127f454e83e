"""Measure which models work, with real chat templates and tokenizers, which the first run downloads (by npm, too).

`templates` compares prompts with Transformers for every chat template. `families` measures tiny models of many
architectures, and prints the table of docs/models.md; `families-vllm` measures its column for vLLM, where that is
installed.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence

from genrec.cache import default_cache
from genrec.errors import GenrecError


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table, and exit with 1 if a row is wrong."""
    parser = argparse.ArgumentParser(prog="python -m eval.models", description=__doc__)
    parser.add_argument("table", choices=("templates", "families", "families-vllm"))
    parser.add_argument("names", nargs="*", metavar="FAMILY", help="rows to measure, such as 'Llama 3.2'; all of them")
    parser.add_argument("--update", action="store_true", help="write the rows to docs/models.md")
    options = parser.parse_args(arguments)
    if options.table == "templates":
        sys.exit(0 if print_templates() else 1)
    sys.exit(0 if print_families(options.names, update=options.update, in_vllm=options.table == "families-vllm") else 1)


def print_families(names: Sequence[str], *, update: bool, in_vllm: bool) -> bool:
    """Print rows of the table of families; returns whether all are as they must be."""
    from eval.models.architectures import ARCHITECTURES
    from eval.models.families import measure_family
    from eval.models.family_table import format_difference, format_row, format_table, update_table
    from eval.models.vllm_families import VLLM_FAMILIES, measure_in_vllm
    from eval.progress import show_progress

    if unknown := [name for name in names if name not in ARCHITECTURES]:
        print(f"error: no family {unknown[0]!r}; choose from {', '.join(ARCHITECTURES)}", file=sys.stderr)
        return False
    chosen = names or (VLLM_FAMILIES if in_vllm else tuple(ARCHITECTURES))
    cache, cells, wrong = default_cache(), {}, []
    for name in show_progress(chosen, "families", len(chosen)):
        if not in_vllm:
            row = measure_family(name, cache)
            cells[name] = format_row(row)
            if not row.is_right:
                wrong.append(name)
            continue
        try:
            cells[name] = {"vLLM": format_difference(measure_in_vllm(name, cache, timeout=600.0))}
        except GenrecError as error:
            cells[name] = {"vLLM": "no"}
            wrong.append(name)
            print(f"{name}: {error}", file=sys.stderr)
    print(format_table(cells))
    if update:
        update_table(cells)
    if wrong:
        print(f"wrong: {', '.join(wrong)}", file=sys.stderr)
    return not wrong


def print_templates() -> bool:
    """Print the templates that need a change, and how many there are of each kind; returns whether none is wrong."""
    from eval.models.templates import TemplateComparison
    from eval.progress import show_progress
    from genrec.datasets import get_model
    from genrec.evaluation import VERDICTS
    from genrec.settings import LANGUAGE_MODEL

    cache = default_cache()
    comparison = TemplateComparison(get_model(LANGUAGE_MODEL, cache), cache)
    templates = list(comparison.sources)
    rows = [
        row
        for template in show_progress(templates, "templates", len(templates))
        for row in comparison.compare(template)
    ]
    for row in rows:
        if row.verdict != "equal" or row.notes:
            print(f"{row.template}, {row.conversation}: {row.verdict}{f' ({row.notes})' if row.notes else ''}")
    ranks = list(VERDICTS)
    worst = Counter(
        max((row.verdict for row in rows if row.template == template), key=ranks.index) for template in templates
    )
    for verdict, meaning in VERDICTS.items():
        print(f"{worst[verdict]:4} {verdict}: {meaning}")
    return not worst["different"]


if __name__ == "__main__":
    main()
