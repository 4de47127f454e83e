"""The option --config of every command, and where options get their values from.

An option has the value of the command line, else of the environment, else of the file, else its default. The variable
GENREC_SERVER_PORT is the key `port` of the table [server], see `genrec.cli.config_file`. Options that can be repeated
have one value a line there; Click's own variables are not used, because they are split at spaces, which filters
contain.
"""

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from genrec.cli.config_file import Tables, command_path, key_of, options_of, read_config, tables_of
from genrec.errors import InputError, format_value

_PREFIX = "GENREC_"


class GivenOption(NamedTuple):
    """The value of an option in the file or the environment.

    Attributes:
        value: the value, as the option takes it.
        table: the table of the file that it belongs to.
        source: "file" or "environment".
        place: where it was found, such as "genrec.toml" or "GENREC_SERVER_PORT".
    """

    value: Any
    table: str
    source: str
    place: str


def given_options(context: Any, file: Path | None, environ: Mapping[str, str]) -> dict[str, GivenOption]:
    """The options of a command that the environment or the file sets, by the name of the parameter.

    Args:
        context: of the command.
        file: path of the file; None for none.
        environ: the environment.

    Raises:
        InputError: see `read_config`; or an environment variable has a value that the option does not take.
    """
    tables = {} if file is None else read_config(file, context)
    found = {}
    for option in options_of(context.command):
        candidates = tables_of(command_path(context), option)
        given = _from_environment(candidates, option, environ, context) or _from_file(candidates, option, tables, file)
        if given is not None:
            found[option.name] = given
    return found


def _from_environment(
    candidates: Sequence[str], option: Any, environ: Mapping[str, str], context: Any
) -> GivenOption | None:
    for table in candidates:
        variable = f"{_PREFIX}{table}_{key_of(option)}".upper().replace(".", "_").replace("-", "_")
        if text := environ.get(variable):
            value = text.splitlines() if option.multiple else text
            try:
                taken = option.process_value(context, value)
            except typer.BadParameter as error:
                problem = f"the environment variable {variable} is {format_value(text)}"
                raise InputError(f"{problem}, which {option.opts[0]} does not take: {error.message}") from None
            return GivenOption(taken, table, "environment", variable)
    return None


def _from_file(candidates: Sequence[str], option: Any, tables: Tables, file: Path | None) -> GivenOption | None:
    key = key_of(option)
    table = next((one for one in candidates if key in tables.get(one, {})), None)
    return None if table is None else GivenOption(tables[table][key], table, "file", str(file))


def _apply(context: typer.Context, file: Path | None) -> Path | None:
    """Make the values of environment and file the defaults of the command."""
    context.default_map = {name: one.value for name, one in given_options(context, file, os.environ).items()}
    return file


Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="TOML file with options, such as genrec init writes.",
        envvar="GENREC_CONFIG",
        is_eager=True,
        callback=_apply,
    ),
]


def with_config(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the option --config, which sets the defaults of its other options."""

    def configured(*, config: Config = None, **given: Any) -> None:
        command(**given)

    changed: Any = configured
    added = inspect.signature(configured).parameters["config"]
    signature = inspect.signature(command)
    changed.__signature__ = signature.replace(parameters=[*signature.parameters.values(), added])
    changed.__annotations__ = {**inspect.get_annotations(command), "config": Config}
    changed.__name__, changed.__doc__ = command.__name__, command.__doc__
    return configured
