"""The command `moa`: begin an experiment, run it, talk to its policies, take them along, read and compare its results.

Heavy libraries are imported by the command that needs them, so that `moa --help` answers at once.
"""

import os
import sys
from typing import Annotated

import typer

from moa import __version__
from moa.cli.answering import respond
from moa.cli.chatting import chat
from moa.cli.exporting import export
from moa.cli.models import convert, doctor
from moa.cli.results import compare, figure, leaderboard, sql, summary
from moa.cli.running import check, init, run, unlock
from moa.errors import MoaError, Unstoppable, shown
from moa.store.limits import INTERRUPTED
from moa.store.terminal import lenient, note, say

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Multi-objective alignment of language models.",
)
VERBATIM = {"ignore_unknown_options": True, "allow_interspersed_args": False}  # Snakemake's arguments

# in the order of --help
app.command()(doctor)
app.command()(init)
app.command()(check)
app.command(context_settings=VERBATIM)(run)
app.command()(convert)
app.command()(respond)
app.command()(chat)
app.command()(export)
app.command()(leaderboard)
app.command()(summary)
app.command()(figure)
app.command()(compare)
app.command()(sql)
app.command()(unlock)


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        say(f"moa {__version__}")
    elif context.invoked_subcommand is None:
        say(context.get_help())


def main() -> None:
    """Run the command; a mistake ends in one line and status 1."""
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115  the shell has closed it
    lenient(sys.stdout)
    try:
        _check_arguments()
        status = app(prog_name="moa", standalone_mode=False)
        sys.stdout.flush()
        if status == INTERRUPTED:
            note("error: interrupted")
        sys.exit(status)
    except Unstoppable as error:
        note(f"error: {error}")
        os._exit(error.status)  # a thread goes on that nothing else ends
    except MoaError as error:
        sys.exit(shown(f"error: {error}"))
    except typer.TyperException as error:  # of the command line itself
        sys.exit(shown(f"error: {error.format_message()} See moa --help."))
    except (typer.Abort, KeyboardInterrupt):
        note("error: interrupted")
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        _forget_output()  # `| head` has read enough
        sys.exit(1)
    except OSError as error:
        _forget_output()
        where = error.filename or "the output"
        sys.exit(shown(f"error: {where}: {error.strerror or error}; see that it may be written, and has space"))


def _check_arguments() -> None:
    """Refuse what is no text before a library does: bytes that are not UTF-8 arrive as lone surrogates."""
    for argument in sys.argv[1:]:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise MoaError(f"{argument}: not UTF-8; give text and names of files in UTF-8") from None


def _forget_output() -> None:
    """Send what standard output has not taken yet nowhere: the interpreter would try again, and print a trace."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
