"""Ask for known vulnerabilities of the locked packages, by pip-audit; nothing is installed or changed.

    make audit

It ends with status 0 where every package was asked about and nothing is known, else with 1: something is known, or the
service could not be reached, which is said.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

LOCKS = ("requirements-torch.txt", "requirements-cuda.txt", "requirements.lock.txt", "requirements-tools.txt")


def report(packages: list[dict[str, Any]]) -> tuple[list[str], int]:
    """Return the lines to print and the exit status for what pip-audit says of each package.

    A package that it has no answer for has a `skip_reason`. pip-audit calls that no vulnerability, and so it would call
    a mirror of the package index that has no vulnerabilities to tell of.
    """
    asked = [package for package in packages if "skip_reason" not in package]
    lines = []
    for package in asked:
        for known in package["vulns"]:
            fixed = f"fixed in {', '.join(known['fix_versions'])}" if known["fix_versions"] else "not fixed yet"
            lines.append(
                f"{package['name']} {package['version']}: {', '.join([known['id'], *known['aliases']])}, {fixed}"
            )
    silent = [package["name"] for package in packages if "skip_reason" in package]
    if packages and not asked:
        return [
            f"audit: the service has no answer for any of {len(packages)} packages; it cannot be reached from here"
        ], 1
    if silent:
        lines.append(f"audit: the service has no answer for {', '.join(silent)}")
    lines.append(f"audit: {len(lines) - bool(silent)} known vulnerabilities in {len(asked)} packages")
    return lines, int(len(lines) > 1)


def main() -> int:
    """Print what is known, and return the exit status."""
    command = [str(Path(sys.executable).with_name("pip-audit")), "--require-hashes", "--disable-pip"]
    command += ["--format", "json", "--progress-spinner", "off", *(part for path in LOCKS for part in ("-r", path))]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        packages = json.loads(asked.stdout)["dependencies"]
    except json.JSONDecodeError:
        said = asked.stderr.strip().splitlines() or ["pip-audit said nothing"]
        print(f"audit: the service cannot be reached: {said[-1]}")
        return 1
    lines, status = report(packages)
    print("\n".join(lines))
    return status


if __name__ == "__main__":
    sys.exit(main())
