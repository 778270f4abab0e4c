"""Write docs/sbom.cdx.json, the bill of materials (CycloneDX 1.6) of every package in the lock, by cyclonedx-bom.

    make sbom

cyclonedx-bom reads packages, versions and hashes from the lock, and licences from what the packages of an environment
say of themselves. So one that is not installed here has no licence in it. The same lock gives the same packages.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.utils import canonicalize_name

LOCKS = ("requirements-torch.txt", "requirements-cuda.txt", "requirements.lock.txt")
OUT = Path("docs", "sbom.cdx.json")


def bill(*arguments: str, lock: str | None = None) -> dict[str, Any]:
    """Run cyclonedx-bom, and return what it says."""
    command = [str(Path(sys.executable).with_name("cyclonedx-py")), *arguments, "--pyproject", "pyproject.toml"]
    command += ["--output-reproducible", "--sv", "1.6", "--no-validate"]  # validated below, once
    said = subprocess.run(command, input=lock, capture_output=True, text=True, check=False)
    return json.loads(said.stdout) if said.returncode == 0 else sys.exit(said.stderr)


def main(python: str) -> None:
    """Take components from the lock, and their licences from the environment of a Python."""
    here = {canonicalize_name(part["name"]): part for part in bill("environment", python)["components"]}
    made = bill("requirements", "-", lock="".join(Path(path).read_text(encoding="utf-8") for path in LOCKS))
    parts = sorted(made.pop("components"), key=lambda part: part["purl"])
    for part in parts:
        del part["description"]  # the lock's lines again
        part["bom-ref"] = part["purl"]  # not the number of a line
        for files in part["externalReferences"]:
            files |= {"url": part["purl"], "comment": "the files that the lock allows"}  # whichever index has them
        part |= {key: value for key, value in here.get(part["name"], {}).items() if key == "licenses"}
    del made["dependencies"]  # a lock does not say who needs whom
    for tool in made["metadata"]["tools"]["components"]:
        tool.pop("externalReferences", None)
    a_line_each = ",\n".join(json.dumps(part, sort_keys=True) for part in parts)
    text = (
        json.dumps(made, indent=1, sort_keys=True).replace("{", f'{{\n "components": [\n{a_line_each}\n ],', 1) + "\n"
    )
    if (wrong := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)) is not None:
        sys.exit(f"{OUT}: {wrong}")
    OUT.write_text(text, encoding="utf-8")
    print(f"{OUT}: {len(parts)} packages, {sum('licenses' in part for part in parts)} with a licence")


if __name__ == "__main__":
    main(*sys.argv[1:])
