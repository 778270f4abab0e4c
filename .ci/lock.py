"""Make the lock: every package that `make setup` installs, with its version and the hashes of its files.

    make lock                                          # what requirements*.txt ask for; other versions stay
    make lock ARGS="--upgrade-package transformers"    # the newest release that they allow; --upgrade for all

uv reads the package index's metadata and downloads no package. The lock is for Linux and macOS, Python 3.11 and 3.12:
three files, which are installed one after another (torch, what its CUDA build needs besides, all others), and a fourth
with the tools that make itself uses. Hashes that a file has for a version stay, so one added by hand is kept.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

LOCK, TORCH, CUDA = "requirements.lock.txt", "requirements-torch.txt", "requirements-cuda.txt"
TOOLS, NAMED_TOOLS = "requirements-tools.txt", "uv==0.13.9\npip-audit==2.10.1\ncyclonedx-bom==7.5.0\nmutmut==3.8.1\n"
ELSEWHERE = ("colorama", "httpx2-jsfetch", "pyreadline3")  # for Windows and browsers, where make does not run
OF_CUDA = re.compile(r"(cuda|nvidia)-|triton==")


def locked(text: str) -> list[str]:
    """Return the entries of a lock: `name==version`, perhaps a marker, and the hashes, over several lines."""
    return re.findall(r"^[a-z0-9].*(?:\n[ \t].*)*", text, re.MULTILINE)


def compiled(named: str, before: list[str], *options: str) -> list[str]:
    """Ask uv for a file's packages and all that they need; versions and hashes of the entries before are kept."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "lock.txt")
        out.write_text("\n".join(before) + "\n", encoding="utf-8")
        command = [str(Path(sys.executable).with_name("uv")), "pip", "compile", named, "--output-file", str(out)]
        command += ["--universal", "--python-version", "3.11", "--generate-hashes", "--no-annotate", "--no-header"]
        command += [part for name in ELSEWHERE for part in ("--no-emit-package", name)]
        subprocess.run([*command, "--no-config", "--quiet", *options], check=True)
        return locked(out.read_text(encoding="utf-8"))


def write(path: str, entries: list[str]) -> None:
    """Replace a file's entries and keep its comments, which stand at its top."""
    comments = re.findall(r"^#.*", Path(path).read_text(encoding="utf-8"), re.MULTILINE)
    Path(path).write_text("\n".join([*comments, *entries]) + "\n", encoding="utf-8")


def main(*options: str) -> None:
    """Write the four files; options go to uv."""
    before = {path: locked(Path(path).read_text(encoding="utf-8")) for path in (TORCH, CUDA, LOCK, TOOLS)}
    entries = compiled("requirements-dev.txt", before[TORCH] + before[CUDA] + before[LOCK], *options)
    parts: dict[str, list[str]] = {TORCH: [], CUDA: [], LOCK: []}
    for entry in entries:
        parts[TORCH if entry.startswith("torch==") else CUDA if OF_CUDA.match(entry) else LOCK].append(entry)
    for path, part in parts.items():
        write(path, part)
    with tempfile.TemporaryDirectory() as folder:
        named = Path(folder, "tools.in")
        named.write_text(NAMED_TOOLS, encoding="utf-8")
        write(TOOLS, compiled(str(named), before[TOOLS], "--constraint", LOCK, *options))


if __name__ == "__main__":
    main(*sys.argv[1:])
