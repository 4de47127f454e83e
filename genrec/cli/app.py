"""The command-line application: its commands, and how errors end it."""

import errno
import logging
import os
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from genrec.cli import (
    batch,
    chat,
    config,
    data,
    data_check,
    demo,
    doctor,
    evaluate,
    exit_codes,
    index,
    init,
    model,
    prompt,
    recommend,
    serve,
    terminal,
)
from genrec.cli.config_options import with_config
from genrec.errors import GenrecError


class _ErrorReportingGroup(TyperGroup):
    """Turns errors into one line on standard error and an exit code, without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            terminal.flush()
        except GenrecError as error:
            terminal.print_error(str(error))
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            raise typer.Exit(exit_codes.INTERRUPTED) from None
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            terminal.discard_stdout()
            terminal.print_error("cannot write the output: the disk is full; free some space and try again")
            raise typer.Exit(exit_codes.DISK_FULL) from None
        except Exception as error:
            _explain_leading_dash(error)
            raise
        return result


def _explain_leading_dash(error: Any) -> None:
    """Say how to pass an id that begins with "-" to a command that takes ids; typer takes it for an option."""
    option = getattr(error, "option_name", "")  # of typer's error for an unknown option, which has no public name
    command = getattr(getattr(error, "ctx", None), "command", None)
    takes_values = any(parameter.param_type_name == "argument" for parameter in getattr(command, "params", ()))
    if option and not option.startswith("--") and takes_values:
        error.message += "; write ids that begin with '-' at the end, after --"


app = typer.Typer(
    cls=_ErrorReportingGroup,
    name="genrec",
    help="Recommend items from your catalog with a language model.",
    epilog="Exit codes: 0 success, 2 invalid input, 3 batch with failed rows, 4 model, data or options do not match, 5 "
    "the model cannot run.",
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(is_requested: bool) -> None:
    if is_requested:
        from importlib.metadata import version

        terminal.write_line(version("genrec"))
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version.")
    ] = False,
) -> None:
    # Threads that spin while they wait make a busy machine ten times slower, and an idle one no faster. torch reads
    # this variable when it is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Commands print notices of failed stages. Only a server has a log, and needs the tracebacks in it.
    if context.invoked_subcommand != "serve":
        logging.getLogger("genrec.rankers.failures").addHandler(logging.NullHandler())


app.command("init")(init.init)
app.command("demo")(demo.demo)
app.command("recommend")(recommend.recommend)
app.command("chat")(chat.chat)
app.command("serve")(serve.serve)
app.command("evaluate")(evaluate.evaluate)
data.group.command("check")(data_check.check)
for _name, _group in (
    ("batch", batch.group),
    ("index", index.group),
    ("prompt", prompt.group),
    ("data", data.group),
    ("model", model.group),
    ("config", config.group),
):
    app.add_typer(_group, name=_name, no_args_is_help=True)
app.command("doctor")(doctor.doctor)
for _typer in (app, *(info.typer_instance for info in app.registered_groups)):
    for _command in _typer.registered_commands if _typer is not None else ():
        if _command.callback is not None:
            _command.callback = with_config(_command.callback)
