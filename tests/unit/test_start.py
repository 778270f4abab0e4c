"""A job's start: what it does not import."""

import subprocess
import sys

PROGRAM = """
import sys
import moa.stages.train
assert "torch" in sys.modules
print(*sorted({name.partition(".")[0] for name in sys.modules} & {"bitsandbytes", "trl", "pandas", "sklearn"}))
import peft.import_utils
print(peft.import_utils.is_bnb_4bit_available())
"""


def test_a_training_job_starts_without_bitsandbytes_and_can_still_have_it() -> None:
    """PEFT asks for it wherever it is installed; what PEFT remembers while it is hidden must not stay."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    loaded, available = done.stdout.splitlines()
    assert loaded == ""
    assert available == "True"
