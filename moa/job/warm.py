"""A warm process: it has loaded torch and the stages' other libraries once, and jobs are forks of it.

A job that starts by itself imports for eight processor seconds before its first line of work. Snakemake starts one warm
process per run; a stage's command asks it for a fork, which gets the command's arguments, environment, folder and
streams, and whose status becomes its own. Where there is none, or it is gone, the command does the work itself. The
fork lives as long as the command: whatever ends the one ends the other.

A GPU's context does not survive a fork, so where a GPU is visible every job starts by itself.
"""

import contextlib
import json
import os
import random
import runpy
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from moa.job.process import PARENT, THREAD_VARIABLES, exit_with_parent, importing, parent_alive
from moa.store import terminal

SOCKET = "MOA_WARM"  # names its socket to jobs
STAGES = ("base", "reference", "train", "generate", "best_of_n")  # those whose imports take seconds
LIBRARIES = ("moa.trainers.ppo", "moa.trainers.pair_loop", "moa.lm.sft")  # that a stage imports by name
NUMBER = struct.Struct("!i")
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
KILLED = 128 + signal.SIGKILL


def start() -> None:
    """Start a warm process that belongs to this one, for the jobs that are started from here."""
    os.environ[SOCKET] = str(Path(tempfile.mkdtemp(prefix="moa-warm-")) / "socket")
    # In a session of its own: a terminal's Ctrl-C reaches its forks by their commands. Without streams: who reads the
    # run's output to its end must not wait for it. With one thread: no fork inherits a part of a pool.
    none = subprocess.DEVNULL
    command, alone = [sys.executable, "-m", "moa.job.warm"], {**os.environ, **dict.fromkeys(THREAD_VARIABLES, "1")}
    subprocess.Popen(command, env=alone, stdin=none, stdout=none, stderr=none, start_new_session=True)


def delegate() -> None:
    """Let the warm process do this command's work, and end with its status; return where there is none."""
    path, (module, *arguments) = os.environ.get(SOCKET), sys.orig_argv[sys.orig_argv.index("-m") + 1 :]
    if not path or module.rpartition(".")[2] not in STAGES:
        return
    connection = socket.socket(socket.AF_UNIX)
    asked = {"module": module, "arguments": arguments, "environment": dict(os.environ), "folder": os.getcwd()}
    text = json.dumps(asked).encode()
    try:
        connection.connect(path)
        socket.send_fds(connection, [NUMBER.pack(len(text))], [0, 1, 2])
        connection.sendall(text)
        (fork,) = NUMBER.unpack(_read(connection, NUMBER.size))
    except (OSError, EOFError):
        return
    for number in SIGNALS:
        signal.signal(number, lambda received, _: os.kill(fork, received))
    try:
        (status,) = NUMBER.unpack(_read(connection, NUMBER.size))
    except (OSError, EOFError):
        status = KILLED  # it said nothing
    os._exit(status)


def _read(connection: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        part = connection.recv(size - len(found))
        if not part:
            raise EOFError
        found += part
    return found


def serve(path: Path) -> None:
    """Load the libraries, then fork for every command that asks, until the process that started this one is gone."""
    parent = os.environ.pop(PARENT, None)  # imported stages would start a thread that watches it: none may be forked
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(64)  # commands that ask meanwhile wait for the imports, which are theirs
    with importing():
        for name in [*(f"moa.stages.{stage}" for stage in STAGES), *LIBRARIES]:
            import_module(name)
    if parent is not None:
        os.environ[PARENT] = parent
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a fork but its command
    listener.settimeout(0.5)
    while parent_alive():
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            continue
        if os.fork() == 0:
            try:
                listener.close()
                _work(connection)
            finally:  # a fork never goes on as the warm process
                os._exit(KILLED)
        connection.close()
    path.unlink(missing_ok=True)
    path.parent.rmdir()


def _work(connection: socket.socket) -> NoReturn:
    """Be the command that asks: in its folder, with its environment, arguments and streams."""
    connection.settimeout(None)
    header, streams, _, _ = socket.recv_fds(connection, NUMBER.size, 3)
    asked = json.loads(_read(connection, NUMBER.unpack(header)[0]))
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["folder"])
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    connection.sendall(NUMBER.pack(os.getpid()))
    threading.Thread(target=_end_with, args=(connection,), daemon=True).start()
    exit_with_parent()
    random.seed()
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    status = _run(asked["module"], asked["arguments"])
    with contextlib.suppress(OSError):
        connection.sendall(NUMBER.pack(status))
    os._exit(status)


def _end_with(connection: socket.socket) -> None:
    """End at once where the command that asked has ended: it says nothing more until then.

    A command that is killed before it has read its fork's number resets the connection, which is an error here.
    """
    with contextlib.suppress(OSError):
        connection.recv(1)
    os.kill(os.getpid(), signal.SIGKILL)


def _run(module: str, arguments: list[str]) -> int:
    """Run a module as `python -m` does, and return its status."""
    sys.argv = [str(sys.modules[module].__file__), *arguments]
    del sys.modules[module]
    status: Any = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=False)
    except SystemExit as error:
        status = error.code
        if isinstance(status, str):
            terminal.note(status)
            status = 1
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return status or 0


if __name__ == "__main__":
    serve(Path(os.environ[SOCKET]))
