"""Options and arguments of `genrec batch`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from genrec.cli import options
from genrec.cli.settings_options import RANKER_PANEL, setting_options

_TEXT_PANEL = "Texts"

Input = Annotated[
    Path,
    typer.Argument(
        metavar="INPUT",
        help="CSV, TSV, JSON Lines or Parquet; a file or a folder. Columns: user_id, or history (item ids, oldest "
        "first) and words; any columns with --prompt; or lines in OpenAI's batch format.",
    ),
]
Output = Annotated[Path, typer.Argument(metavar="OUTPUT", help="Folder of the run.")]
RankerName = Annotated[
    str,
    typer.Option(
        "--ranker",
        metavar="CHOICE",
        help="Ranker: generative, blend, embedding or popularity.",
        rich_help_panel=RANKER_PANEL,
    ),
]
WithParent = Annotated[bool, typer.Option("--with-parent", hidden=True, help="End when standard input closes.")]
Prompt = Annotated[
    str | None,
    typer.Option(
        "--prompt",
        metavar="FILE",
        help="Generate a text for each row with this .j2 template. Its inputs are columns; history and item are looked "
        "up in the data.",
        rich_help_panel=_TEXT_PANEL,
    ),
]
Schema = Annotated[
    Path | None,
    typer.Option(
        "--schema", metavar="FILE", help="JSON Schema that constrains every text.", rich_help_panel=_TEXT_PANEL
    ),
]
MaxTokens = Annotated[
    int, typer.Option("--max-tokens", help="Maximum number of tokens in a text.", rich_help_panel=_TEXT_PANEL)
]
Temperature = Annotated[
    float,
    typer.Option(
        "--temperature", help="Sampling temperature, up to 2; 0 is greedy decoding.", rich_help_panel=_TEXT_PANEL
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of the sampling.", rich_help_panel=_TEXT_PANEL)]
Workers = Annotated[int, typer.Option("--workers", min=1, help="Number of worker processes.")]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="Run on a Ray cluster whose machines share OUTPUT: auto, local, or ray://... (needs the extra ray).",
    ),
]
PartRows = Annotated[
    int | None,
    typer.Option(
        "--part-rows",
        min=1,
        help="Rows in each part; a killed worker loses at most one part.",
        show_default="128 with a language model, 4096 without",
    ),
]
OnUnknown = Annotated[
    str,
    typer.Option(
        "--on-unknown",
        metavar="CHOICE",
        help="Unknown users: fail the row (raise, skip), or treat the user as new (fallback). Unknown items in a "
        "history: fail the row (raise), or ignore the item (skip, fallback).",
    ),
]


@options.with_options(options.DATA_OPTIONS, setting_options())
def task_options(
    k: options.K = 10,
    ranker: RankerName = "generative",
    prompt: Prompt = None,
    schema: Schema = None,
    max_tokens: MaxTokens = 256,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    on_unknown: OnUnknown = "raise",
    explain: options.Explain = False,
    filter_seen: options.FilterSeen = True,
    only: options.Only = None,
    exclude: options.Exclude = None,
    where: options.Where = None,
    **given: Any,
) -> None:
    """Declares the options that decide the answers; see `genrec.cli.batch_tasks.task_options_from`."""
