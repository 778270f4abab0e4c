"""Answers of a model behind an endpoint, kept on disk: what was answered once is not asked, or paid for, again.

A file for each answer, written beside its place and renamed, so that jobs may ask at the same time: at worst two ask
the same and the later answer stays. Keys of endpoints are never among what is written.
"""

import fcntl
import json
from dataclasses import dataclass
from pathlib import Path

from moa.errors import MoaError
from moa.store import files
from moa.store.provenance import text_hash

PLACE = Path(".moa/answers")  # below the folder of the run


@dataclass(frozen=True)
class Answer:
    """What was answered; `cut`: it ended at the most tokens that were asked for."""

    text: str
    cut: bool


class Answers:
    """The answers of one model, asked in one way."""

    def __init__(self, *asked: str) -> None:
        """Take what, besides the text, decides an answer."""
        self.folder = PLACE / text_hash(json.dumps(asked))

    def path(self, text: str) -> Path:
        """Return where the answer to a text is, or will be."""
        return self.folder / f"{text_hash(json.dumps(text))}.json"

    def get(self, text: str) -> Answer | None:
        """Return the answer to a text, None where there is none yet.

        Raises:
            MoaError: it is there, and is not what was written.
        """
        path, remedy = self.path(text), "delete it, and it will be asked for again"
        if not path.exists():
            return None
        found = files.read_object(path, "an answer", remedy)
        if not isinstance(found.get("answer"), str) or not isinstance(found.get("cut"), bool):
            raise MoaError(f"{path}: not an answer, its keys are {', '.join(found) or 'none'}; {remedy}")
        return Answer(found["answer"], found["cut"])

    def put(self, text: str, answer: Answer) -> None:
        """Keep an answer."""
        content = json.dumps({"asked": text, "answer": answer.text, "cut": answer.cut})
        files.atomically(self.path(text), lambda place: place.write_text(content, encoding="utf-8"))

    def count(self, most: int) -> bool:
        """Note that a request is made, for all jobs at once; return False where `most` were made already."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "requests").open("a+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            made = len(file.read())  # a mark for each: a kill in the middle of writing one damages nothing
            if made >= most:
                return False
            file.write("|")
            return True
