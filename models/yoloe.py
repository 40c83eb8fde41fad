"""YOLOE: a YOLO asked in words. The words become embeddings once; from then on neither text encoder nor network.

The package's text encoder is a download of its own (`mobileclip2_b.ts` from its GitHub assets, and the package `clip`
for its tokenizer). So the embeddings of `roadwork_classes.toml` are kept in a file of the package's own format, which
belongs to one architecture: the first load on a machine with a network makes it, and it can be copied to others.
"""

from __future__ import annotations

from pathlib import Path

from models import boxes
from models.base import ModelUnavailable
from models.catalog import Entry
from models.detectors import Yolo
from models.torch_model import first_line, state_directory


class Yoloe(Yolo):
    """A YOLOE of the package ultralytics (AGPL-3.0). Its checkpoints are pickles: see `fetch --allow-pickled`."""

    words_file: Path | None = None  # default: words_path(entry)

    def _load(self, directory: Path) -> None:
        from ultralytics import YOLOE

        self.model = YOLOE(directory / self.entry.file)
        self.table = boxes.classes(self.entry.classes)
        path = self.words_file or words_path(self.entry)
        if path.is_file():
            self.model.load_prompt_embeddings(path)
        else:
            self._make_words(path)
        if set(self.model.names.values()) != set(self.table.weights):
            raise ModelUnavailable(f"{self.entry.key}: {path} holds other phrases than the project asks; remove it")
        self.model.to(self.device)

    def _make_words(self, path: Path) -> None:
        try:
            self.model.set_classes(list(self.table.weights))
        except Exception as error:  # whatever fails on the way to an encoder that is not there
            raise ModelUnavailable(
                f"{self.entry.key}: {path} is missing, and the text encoder that makes it cannot be had here "
                f"({first_line(error)}); load the model once on a machine with a network and copy the file"
            ) from error
        path.parent.mkdir(parents=True, exist_ok=True)
        self.model.save_prompt_embeddings(path)


def words_path(entry: Entry) -> Path:
    """Where the embeddings of the phrases lie: the miner's state directory, by the model's key."""
    return state_directory() / "words" / f"{entry.key}.npz"
