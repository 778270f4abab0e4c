"""The command `moa`: begin an experiment, run it, talk to its policies, read and compare its results.

Heavy libraries are imported by the command that needs them, so that `moa --help` answers at once.
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from moa import __version__
from moa.errors import MoaError, Unstoppable, shown
from moa.job import start as begin
from moa.job.process import importing
from moa.store.limits import INTERRUPTED, MEMORY, SECONDS, Limits
from moa.store.terminal import lenient, note, say

if TYPE_CHECKING:
    from moa.plan import Plan

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Multi-objective alignment of language models.",
)

DATABASE = Path("results/results.duckdb")
INDEX = Path("reports/index.html")
Database = Annotated[Path, typer.Option(help="the database that a run built")]
Task = Annotated[str | None, typer.Argument(help="one task; all without it")]
VERBATIM = {"ignore_unknown_options": True, "allow_interspersed_args": False}  # Snakemake's arguments


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        say(f"moa {__version__}")
    elif context.invoked_subcommand is None:
        say(context.get_help())


@app.command()
def init(
    file: Annotated[Path, typer.Argument(help="the experiment file to write")] = Path("mine.yaml"),
    source: Annotated[str, typer.Option("--from", help=f"what to begin from: {', '.join(begin.experiments())}")] = (
        begin.DEFAULT
    ),
) -> None:
    """Write a commented experiment file; an existing one is kept."""
    begin.init(file, source)
    say(f"{file} written. Edit it, then:  moa check {file}  and  moa run {file}")


@app.command()
def check(
    experiments: Annotated[list[Path], typer.Argument(help="experiment files")],
    trial: Annotated[
        bool, typer.Option("--trial", help="then run all at the smallest size, in .moa/trial, and say what it took")
    ] = False,
) -> None:
    """Validate experiment files and the local things they name.

    Data, labels, functions, models' files and token counts are looked at, every mistake is named, and what each file
    would train and load is said; nothing is trained. With --trial every stage and row then runs with three steps, four
    prompts and a preference per objective, on the real models, rewards and data, and leaves results as they are.
    """
    from moa.ahead.check import check
    from moa.ahead.trial import run

    for experiment in experiments:
        plan = _describe(experiment)
        for line in check(plan, str(experiment)):
            say(f"  {line}")
        if trial:
            for line in run(plan, str(experiment)):
                say(line)


@app.command(context_settings=VERBATIM)
def run(
    experiment: Annotated[Path, typer.Argument(help="experiment file")],
    arguments: Annotated[list[str] | None, typer.Argument(help="Snakemake's, e.g. -n, --cores 2, train")] = None,
) -> None:
    """Run an experiment here; after a crash the same command goes on."""
    from moa.job.unlock import NOTHING, unlock

    begin.check(experiment, arguments or [])
    planned = begin.plans_only(arguments or [])
    if not planned and (done := unlock(Path())) != NOTHING:
        say(done)
    status = begin.run(experiment, arguments or [])
    if status:
        raise typer.Exit(status)
    if DATABASE.exists() and not planned:
        from moa.report.leaderboard import show

        show(DATABASE, INDEX)


@app.command()
def respond(
    prompt: Annotated[str, typer.Argument(help="what the policy continues or answers")],
    policy: Annotated[
        Path, typer.Option(help="folder of a policy, results/<task>/policies/<row>/<policy>/s<seed>, or of a row")
    ],
    preference: Annotated[str | None, typer.Option(help="e.g. sentiment=0.8,conciseness=0.2")] = None,
    experiment: Annotated[
        Path | None, typer.Option(help="experiment file whose settings replace those of the policy's run")
    ] = None,
) -> None:
    """Talk to a trained policy."""
    from moa.respond import respond

    with importing():
        import moa.lm.answering  # noqa: F401

    say(respond(policy, prompt, parse_preference(preference), experiment))


@app.command()
def leaderboard(task: Task = None, database: Database = DATABASE) -> None:
    """Print the leaderboard and where the report is."""
    from moa.report.leaderboard import show

    show(database, INDEX, task)


@app.command()
def summary(task: Task = None, database: Database = DATABASE) -> None:
    """Print leaderboard, payoff and costs as Markdown tables."""
    from moa.report.summary import summary

    say(summary(database, task))


@app.command()
def figure(
    task: Annotated[str | None, typer.Argument(help="the task; may be left out where there is one")] = None,
    out: Annotated[Path | None, typer.Option(help="the file; <task>.svg without it")] = None,
    database: Database = DATABASE,
) -> None:
    """Write a task's front as an SVG file."""
    from moa.report.front import write

    say(f"{write(database, task, out)} written")


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="an archive's folder, or a database")] = DATABASE,
    b: Annotated[Path | None, typer.Argument(metavar="[B]", help="where the other row stands; A without it")] = None,
    row: Annotated[str | None, typer.Option(help="one row of A, in detail; all without it")] = None,
    against: Annotated[str | None, typer.Option(help="the other row; the one of the same name in B without it")] = None,
    pool: Annotated[list[Path] | None, typer.Option(help="a further archive of A's; may be repeated")] = None,
    across: Annotated[
        bool, typer.Option("--across", help="the archives are of several bases: differences within each are pooled")
    ] = False,
    unseen: Annotated[
        Path | None, typer.Option(help="experiment file: only preferences whose text its training never showed")
    ] = None,
    task: Annotated[str | None, typer.Option(help="the task of a database; may be left out where there is one")] = None,
    keep: Annotated[
        Path | None, typer.Option(help="take A's task into this archive first, and compare what it then holds")
    ] = None,
) -> None:
    """Compare rows over seeds: paired differences, equal KL, spread."""
    from moa.experiment.schema import load
    from moa.report import archive
    from moa.report.compare import How, compare
    from moa.report.measured import unseen_by

    if keep is not None and a.is_dir():
        raise MoaError(f"--keep {keep}: {a} is an archive already; give the database of a run")
    first = archive.read(a, task)
    if keep is not None:
        first = archive.keep(first, keep)
        say(f"{keep} holds {len(first.metrics)} metrics and {len(first.points)} points\n")
    mine = [first, *(archive.read(path, task) for path in pool or [])]
    others = [] if b is None else [archive.read(b, task)]
    how = How(across, None if unseen is None else unseen_by(load(unseen)))
    say(compare(mine, others, row=row, against=against, how=how))


@app.command()
def sql(
    statement: Annotated[str, typer.Argument(help='e.g. "FROM leaderboard"')],
    database: Database = DATABASE,
    output: Annotated[
        Literal["table", "csv", "json"], typer.Option("--format", help="csv and json give all rows, unchanged")
    ] = "table",
    memory: Annotated[
        str, typer.Option(help="what the query may take, e.g. 2GB or 50% of the machine's; as much again of disk")
    ] = MEMORY,
    timeout: Annotated[float, typer.Option(help="seconds until it is ended")] = SECONDS,
) -> None:
    """Query the results in SQL: read-only, and no other file."""
    from moa.store.sql import query

    query(database, statement, output, sys.stdout, Limits(memory, timeout))


@app.command()
def unlock() -> None:
    """Remove the lock of a Snakemake that is gone."""
    from moa.job.unlock import unlock

    say(unlock(Path()))


def _describe(path: Path) -> "Plan":
    from moa.experiment import schema
    from moa.plan import Plan

    experiment = schema.load(path)
    plan = Plan(experiment, str(path))
    say(
        f"{path}: task '{experiment.task}', objectives {', '.join(experiment.objectives)}, {len(plan.evaluation)}"
        " evaluation preferences"
    )
    for row in plan.rows:
        lends = "" if row in experiment.run.methods else "  (only lends policies)"
        names = ", ".join(p.name if p.row == row else f"{p.row}/{p.name}" for p in plan.policies_of(row))
        say(f"  {row}: {names or 'nothing to train'}{lends}")
    if experiment.model.sft is None and any(plan.rows[row].conditioned for row in experiment.run.methods):
        say(
            "  note: model.sft is null, so nothing teaches the model to read preferences before training; conditioned"
            " rows learn it from rewards alone"
        )
    trained = plan.trained_rewards(judges=True)
    say(
        f"  trains {len(plan.policies)} policies for each of {len(experiment.run.seeds)} seeds"
        + (f", and the rewards {', '.join(trained)}" if trained else "")
    )
    return plan


def parse_preference(text: str | None) -> dict[str, float] | None:
    """Return {'sentiment': 0.8, ...} of 'sentiment=0.8,...'; malformed text is a MoaError."""
    if text is None:
        return None
    found: dict[str, float] = {}
    for part in text.split(","):
        name, equals, weight = (piece.strip() for piece in part.partition("="))
        try:
            value = float(weight)
        except ValueError:
            value = None
        if not name or not equals or value is None:
            raise MoaError(
                f"--preference {text!r}: expected objective=weight pairs with commas between, e.g."
                " sentiment=0.8,conciseness=0.2"
            )
        if name in found:
            raise MoaError(f"--preference {text!r}: objective '{name}' is given twice")
        found[name] = value
    return found


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


if __name__ == "__main__":
    main()
