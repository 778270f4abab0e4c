"""Puts the workflow's files, which stand at the top of the repository, into the wheel: moa/bundled/."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

BUNDLED = ("Snakefile", "config.yaml", "workflow", "profiles", "experiments")


class WithWorkflow(build_py):
    """Build the package with the files that `moa init` and `moa run` use; an editable install finds them in place."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib, "moa", "bundled")
        shutil.rmtree(target, ignore_errors=True)  # of an earlier build
        target.mkdir(parents=True)
        for name in BUNDLED:
            if Path(name).is_dir():
                shutil.copytree(name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(name, target / name)


setup(cmdclass={"build_py": WithWorkflow})
