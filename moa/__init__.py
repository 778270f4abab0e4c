"""Multi-objective alignment of language models: a workflow-managed benchmark.

Importing this package loads neither torch nor any other heavy library, so that Snakemake can plan in seconds.
"""

import logging
import os

# Read when the hub's library is imported, so it must be set before anything else of this package; TRL's trainers report
# otherwise.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# On some processors it warns at every start that it found no optional kernels from the hub; nothing here asks for them.
logging.getLogger("bitsandbytes.backends.cpu").setLevel(logging.ERROR)

__version__ = "0.6.0"
