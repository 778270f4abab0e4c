"""Puts the workflow's files, which stand at the top of the repository, into the wheel: moa/bundled/."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

BUNDLED = ("Snakefile", "config.yaml", "workflow", "profiles", "experiments")


class WithWorkflow(build_py):
    """Build the package with the files that `moa init` and `moa run` use; an editable install finds them in place."""

    def run(self) -> None:
        if self.editable_mode:
            super().run()
            return
        # An earlier build here may have left modules that are gone, and a method is every file in moa/methods.
        shutil.rmtree(Path(self.build_lib, "moa"), ignore_errors=True)
        super().run()
        target = Path(self.build_lib, "moa", "bundled")
        target.mkdir()
        for name in BUNDLED:
            if Path(name).is_dir():
                shutil.copytree(name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(name, target / name)


setup(cmdclass={"build_py": WithWorkflow})
