"""Count the wrong formulas that the unit tests notice: mutmut changes one place at a time and runs the tests.

    python benchmarks/mutation.py --mutmut .mutmut/bin/mutmut     # `make mutation` sets that environment up first

mutmut lives in an environment of its own that also sees the project's packages. It works in `.mutmut/work`, a copy of
the package and its tests made anew by every run; there `mutmut show NAME` prints a mutant. A mutant counts as killed
only if a test failed on it: one that no test reaches, that runs out of time or that ends the interpreter counts as a
survivor.
"""

import argparse
import ast
import difflib
import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
RL = ("advantages", "estimation", "weights", "losses", "control")
METHODS = (
    "pama",
    "moc",
    "moc_feedback",
    "morlhf",
    "single_objective",
    "mgda_ub",
    "mse_only",
    "linear",
    "grpo",
    "gdpo",
    "ric",
    "modpo",
    "best_of_n",
)
OTHERS = ("method", "trainers/pairs", "lm/targets", "lm/mixture")
FILES = (
    *(f"moa/rl/{name}.py" for name in RL),
    *(f"moa/methods/{name}.py" for name in METHODS),
    *(f"moa/{name}.py" for name in OTHERS),
)
UNITS = (
    *(
        "advantages",
        "estimation",
        "weights",
        "losses",
        "control",
        "golden",
        "methods",
        "moc",
        "moc_feedback",
        "pama_certificate",
    ),
    *("grpo", "grpo_stage", "ric", "modpo", "preference_pairs", "mod", "best_of_n"),
)
# the last file tests what the plan refuses
TESTS = (
    *(f"tests/unit/test_{name}.py" for name in UNITS),
    "tests/workflow/test_sections.py",
)
COPIED = ("moa", "tests", "config.yaml", "pyproject.toml")
# each takes longer than all other tests of its file together, or trains or loads a model, and other cases of the same
# statements stay
SLOW = (
    "test_weights.py::test_optimality_certificate",
    "test_pama_certificate.py::test_certificate[100]",
    "test_pama_certificate.py::test_certificate[1000]",
    "test_pama_certificate.py::test_value_agrees_with_min_norm_on_the_rank_one_gram_matrix[100]",
    "test_grpo.py::test_it_learns_an_arm_per_preference",
    "test_grpo.py::test_neither_checkpointing_nor_micro_batches_change_the_policy",
    "test_grpo.py::test_the_same_seed_trains_the_same_policy",
    "test_grpo_stage.py::test_the_stage_writes_what_the_next_stages_read",
    "test_grpo.py::test_resuming_gives_the_policy_of_never_stopping",
    "test_ric.py::test_end_to_end",
    "test_ric.py::test_no_more_responses_than_the_shared_loop",
    "test_ric.py::test_interrupted_between_parts_gives_the_same_policy",
    "test_ric.py::test_rates_of_the_parts",
    "test_ric.py::test_out_of_memory_starts_the_part_again_with_fewer_examples",
    "test_ric.py::test_divergence_names_the_methods_own_rate",
    "test_ric.py::test_the_policy_learns_to_read_rewards",
    "test_modpo.py::test_training_puts_the_pairs_in_order",
    "test_preference_pairs.py::test_a_policy_learns_what_the_pairs_prefer",
    "test_mod.py::test_a_corner_is_its_policy_to_the_last_draw[decoding0-spec1]",
    "test_mod.py::test_a_corner_is_its_policy_to_the_last_draw[decoding1-spec1]",
)
# What the tests would import on every mutant anew is imported once, by the server that mutants are forked from.
# Objects that exist by then are kept out of the garbage collection with which pytest ends.
WARM = """import gc

import hypothesis
import peft
import scipy.optimize
import torch.distributed.tensor  # torch.testing needs it
import transformers
from trl import GRPOTrainer

gc.freeze()
"""
KILLED = (1, 3)  # pytest's exit codes: a test failed; an internal error, which no clean run has


class Mutant(NamedTuple):
    """One change of one file, and the exit code of the tests on it."""

    file: str
    name: str
    code: int | None
    change: str

    @property
    def killed(self) -> bool:
        return self.code in KILLED


def configuration(files: Sequence[str]) -> str:
    """Return mutmut's configuration.

    Mutants are forked from a server that has run no test, because torch is not fork-safe.
    """
    extra = ["-p", "no:cacheprovider", *(f"--deselect=tests/unit/{name}" for name in SLOW)]
    copied = ["config.yaml", "conftest.py"]
    lines = [
        "[mutmut]",
        "source_paths = moa",
        "process_isolation = forkserver",
        "timeout_multiplier = 300",
        "use_git_change_detection = false",
    ]
    for key, values in (
        ("only_mutate", files),
        ("also_copy", copied),
        ("pytest_add_cli_args_test_selection", TESTS),
        ("pytest_add_cli_args", extra),
    ):
        lines += [f"{key} =", *(f"    {value}" for value in values)]
    return "\n".join(lines) + "\n"


def make(work: Path, files: Sequence[str]) -> None:
    """Make the work folder anew from the checkout."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, work / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, work / name)
    (work / "setup.cfg").write_text(configuration(files), encoding="utf-8")
    (work / "conftest.py").write_text(WARM, encoding="utf-8")


def change(functions: Mapping[str, str], name: str) -> str:
    """Return what a mutant changes, `old line -> new line`; `name` is mutmut's, MODULE.FUNCTION__mutmut_NUMBER."""
    mutant = name.rpartition(".")[2]
    original = f"{mutant.rpartition('_')[0]}_orig"
    before, after = (functions[function].replace(function, "f", 1).splitlines() for function in (original, mutant))
    parts: dict[str, list[str]] = {"-": [], "+": []}
    for line in list(difflib.unified_diff(before, after, n=0, lineterm=""))[3:]:
        parts[line[0]].append(line[1:].strip())
    return f"{' '.join(parts['-'])} -> {' '.join(parts['+'])}"


def read(work: Path, files: Sequence[str]) -> list[Mutant]:
    """Return every mutant that mutmut made in the work folder."""
    mutants = []
    for file in files:
        source = (work / "mutants" / file).read_text(encoding="utf-8")
        functions = {
            node.name: ast.unparse(node) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)
        }
        codes = json.loads((work / "mutants" / f"{file}.meta").read_text(encoding="utf-8"))["exit_code_by_key"]
        mutants += [Mutant(file, name, code, change(functions, name)) for name, code in codes.items()]
    return mutants


def page(mutants: Sequence[Mutant]) -> str:
    """Return the table per file and the survivors as Markdown."""
    lines = ["| file | mutants | killed | survived | share killed |", "|---|---:|---:|---:|---:|"]
    for file in (*dict.fromkeys(m.file for m in mutants), "all"):
        mine = [m for m in mutants if file in (m.file, "all")]
        killed = sum(m.killed for m in mine)
        lines.append(f"| {file} | {len(mine)} | {killed} | {len(mine) - killed} | {100 * killed / len(mine):.1f} % |")
    lines += ["", "Survivors:", ""]
    lines += [
        f"- {m.name.removeprefix('moa.')}: `{m.change}`" + ("" if m.code == 0 else f" (exit code {m.code})")
        for m in mutants
        if not m.killed
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--mutmut",
        type=Path,
        required=True,
        help="mutmut's program, in an environment that sees the project's packages",
    )
    parser.add_argument("--processes", type=int, default=1, help="mutants under test at a time (default 1)")
    parser.add_argument("--files", nargs="+", default=FILES, help="files to mutate (default: all that hold equations)")
    arguments = parser.parse_args()
    work = ROOT / ".mutmut" / "work"
    make(work, arguments.files)
    command = [str(arguments.mutmut.absolute()), "run", "--max-children", str(arguments.processes)]
    with (work / "mutmut.log").open("w") as log:
        ended = subprocess.run(
            command,
            cwd=work,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if ended.returncode:
        raise SystemExit(f"mutmut ended with {ended.returncode}; see {work / 'mutmut.log'}")
    print(page(read(work, arguments.files)))


if __name__ == "__main__":
    main()
