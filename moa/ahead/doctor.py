"""What this machine can do, and what a named experiment needs that is not here: `moa doctor`.

Whatever could hang is asked elsewhere, with a bound on its time: torch and its driver in a process, the hub and the
browser in threads that nobody waits for.
"""

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
import webbrowser
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import psutil

from moa import __version__
from moa.ahead import local, pins
from moa.errors import MoaError, one_line
from moa.experiment import schema
from moa.plan import Plan
from moa.store import hub, lock
from moa.store.lock import LOCK, Entry, Repository

SECONDS = 5.0  # that the hub and the browser have
TORCH_SECONDS = 60.0  # torch is large; on a busy machine it takes long to import
GIB = 2**30
PROBE = """
import json, torch
cuda = torch.cuda.is_available()
print(json.dumps({
    "version": torch.__version__, "threads": torch.get_num_threads(), "mps": torch.backends.mps.is_available(),
    "gpus": [torch.cuda.get_device_properties(i).name for i in range(torch.cuda.device_count())] if cuda else [],
    "memory": torch.cuda.mem_get_info() if cuda else [0, 0],
}))
"""
Value = TypeVar("Value")


def examine(experiment: Path | None = None) -> tuple[list[str], bool]:
    """Return about ten lines on this machine and what an experiment lacks here, and whether nothing is lacking.

    Raises:
        MoaError: the experiment file is wrong.
    """
    plan = None if experiment is None else Plan(schema.load(experiment), str(experiment))
    probe = subprocess.Popen([sys.executable, "-c", PROBE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    answers = bounded({"hub": _hub, "browser": _browser, **_asked(plan)}, SECONDS)
    torch = _torch(probe)
    memory = psutil.virtual_memory()
    machine = {
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}, moa {__version__}",
        "torch": _device(torch),
        "memory": f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB free",
        "disk": f"{shutil.disk_usage(Path.cwd()).free / GIB:.1f} GiB free in {Path.cwd()}",
        "cores": _cores(),
        "bitsandbytes": _bitsandbytes(bool(torch.get("gpus"))),
        "hub": _said(answers["hub"], f"does not answer within {SECONDS:.0f} s; models and data must be local folders"),
        "browser": _said(answers["browser"], "unknown; the report, reports/index.html, opens in any"),
    }
    lines = [f"{name:<13} {said}" for name, said in machine.items()]
    if plan is None:
        return [*lines, f"{'experiment':<13} none named; moa doctor mine.yaml says what it needs"], True
    missing, notes = [*local.mistakes(plan), *_of_machine(plan, torch)], list[str]()
    for what, sections in _repositories(plan).items():
        lacking, said = _of_hub(", ".join(sections), what, answers[str(what)])
        missing += lacking
        notes += said
    needs = f"{experiment} lacks {len(missing)} thing(s) here:" if missing else f"{experiment} has all that it needs"
    shown = [f"  missing: {line}" for line in dict.fromkeys(missing)]
    return [*lines, f"{'experiment':<13} {needs}", *shown, *(f"  {line}" for line in dict.fromkeys(notes))], not missing


def bounded(questions: Mapping[str, Callable[[], Any]], seconds: float) -> dict[str, Any]:
    """Return the answers to questions that are asked at the same time; a MoaError, or None where none came in time."""
    found: dict[str, Any] = dict.fromkeys(questions)

    def ask(name: str) -> None:
        try:
            found[name] = questions[name]()
        except MoaError as error:
            found[name] = error

    threads = [threading.Thread(target=ask, args=(name,), daemon=True) for name in questions]
    for thread in threads:
        thread.start()
    end = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return dict(found)  # what comes later changes nothing any more


def _repositories(plan: Plan) -> dict[Repository, list[str]]:
    """Return what an experiment reads from the hub, with the sections that name it."""
    found: dict[Repository, list[str]] = {}
    for section, what in pins.asked(plan).items():
        found.setdefault(what, []).append(section)
    return found


def _asked(plan: Plan | None) -> dict[str, Callable[[], Entry]]:
    """Return a question for every repository that an experiment reads."""
    wanted = {} if plan is None else _repositories(plan)
    return {str(what): partial(_unasked if hub.offline() else _look_up, what) for what in wanted}


def _look_up(what: Repository) -> Entry:
    return hub.look_up(what, 0.8 * SECONDS)


def _unasked(what: Repository) -> Entry:
    raise MoaError(f"{what}: it is not in the cache, and HF_HUB_OFFLINE forbids to ask the hub")


def _of_hub(sections: str, what: Repository, answer: Entry | MoaError | None) -> tuple[list[str], list[str]]:
    """Return what is missing of a repository of the hub, and what there is to say of it."""
    entry = lock.kept(lock.read(), what)
    notes = []
    if entry is not None and isinstance(answer, Entry) and answer.commit != entry.commit:
        notes.append(
            f"moved: {what} is {answer.commit} now; runs read {entry.commit} until {entry.key} is deleted from {LOCK}"
        )
    here = entry if entry is not None else _in_cache(what)
    if here is not None and hub.have(what, here):
        return [], notes
    if isinstance(answer, Entry):
        return [], [*notes, f"to be fetched by the run: {sections}: {what}"]
    why = f"{what}: the hub did not answer within {SECONDS:.0f} s" if answer is None else str(answer)
    return [f"{sections}: {why}; or name a local folder as its source"], notes


def _in_cache(what: Repository) -> Entry | None:
    try:
        return hub.cached(what)
    except hub.NotHad:
        return None


def _of_machine(plan: Plan, torch: Mapping[str, Any]) -> list[str]:
    """Return what an experiment asks of the processor that is not there."""
    model, gpu = plan.experiment.model, bool(torch.get("gpus"))
    found = [] if torch else ["torch: does not import; install the packages again (make setup, or pip install .)"]
    if model.quantisation != "none" and not _version("bitsandbytes"):
        found.append(f"model.quantisation: {model.quantisation} needs bitsandbytes: pip install bitsandbytes")
    halves = [("model", model), *plan.scoring(judges=True).rewards.items()]
    for name, section in halves:
        if getattr(section, "dtype", None) == "float16" and not gpu:
            where = name if section is model else f"rewards.{name}"
            found.append(f"{where}.dtype: float16 needs a GPU; set bfloat16 or float32")
    return found


def _torch(probe: "subprocess.Popen[str]") -> dict[str, Any]:
    """Return what torch sees; nothing where it does not import, or does not answer."""
    try:
        out, _ = probe.communicate(timeout=TORCH_SECONDS)
        found: dict[str, Any] = json.loads(out) if probe.returncode == 0 else {}
    except subprocess.TimeoutExpired:
        probe.kill()  # a driver that hangs may keep even this waiting, so nobody waits for it
        found = {}
    return found


def _device(torch: Mapping[str, Any]) -> str:
    if not torch:
        return f"does not import within {TORCH_SECONDS:.0f} s: {sys.executable} -c 'import torch' says why"
    gpus, (free, total) = torch["gpus"], torch["memory"]
    if gpus:
        on = f"CUDA: {', '.join(gpus)}, {free / GIB:.1f} of {total / GIB:.1f} GiB free on the first, which jobs use"
    elif torch["mps"]:
        on = "CPU; MPS is there, and untested: nothing here uses it"
    else:
        on = "CPU, no GPU"
    return f"{torch['version']}, {on}"


def _cores() -> str:
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else psutil.cpu_count()
    return f"{own} for this process, of {psutil.cpu_count()}; load {os.getloadavg()[0]:.1f}"


def _version(package: str) -> str:
    """Return a package's version, '' where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _bitsandbytes(gpu: bool) -> str:
    found = _version("bitsandbytes") or "not installed; quantisation nf4 and int8 need it: pip install bitsandbytes"
    return found if gpu else f"{found}; on a CPU nf4 and int8 save memory and cost time"


def _hub() -> str:
    """Return whether the hub answers; huggingface_hub's own client knows proxies and certificates."""
    from huggingface_hub import constants, get_token
    from huggingface_hub.utils import get_session

    if hub.offline():
        return f"offline, by HF_HUB_OFFLINE; what {constants.HF_HUB_CACHE} holds is used"
    began = time.monotonic()
    try:
        status = get_session().get(f"{constants.ENDPOINT}/api/models?limit=1", timeout=0.8 * SECONDS).status_code
    except Exception as error:  # of sockets, names, certificates
        why = one_line(error)
        return f"{constants.ENDPOINT} cannot be reached ({why}); models and data must be local folders"
    took, who = time.monotonic() - began, "a token is set" if get_token() else "no token, so nothing gated"
    fine = "answers" if status == 200 else f"answers with status {status}"
    return f"{constants.ENDPOINT} {fine} in {took:.1f} s; {who}"


def _browser() -> str:
    try:
        return f"{webbrowser.get().name or 'there'}, for reports/index.html"
    except webbrowser.Error:
        return "none here; copy the folder reports to a machine with one, it opens offline"


def _said(answer: str | MoaError | None, otherwise: str) -> str:
    return otherwise if answer is None else str(answer)
