"""`python -m models.training.finetune [distil|vlm] ...`: what `./run_miner.sh train` starts.

With --processes above 1 it starts itself again under torch's launcher, one process a card.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from rich.console import Console
from rich.logging import RichHandler

from models.base import ModelError

COMMANDS = {"distil": "distil", "vlm": "vlm"}


def main(arguments: Sequence[str]) -> int:
    """Exit code: 0 done, 1 failed on the way (no number, no room on the disk), 2 asked wrongly, 130 interrupted."""
    words = list(arguments)
    command = COMMANDS[words.pop(0)] if words and words[0] in COMMANDS else "classify"
    handler = RichHandler(
        console=Console(stderr=True), show_path=False, show_level=False, markup=False, log_time_format="%H:%M:%S"
    )
    first = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(level=logging.INFO if first else logging.WARNING, format="%(message)s", handlers=[handler])
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # which heads a backbone does not need is no news
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # of loading what is on the disk
    for chatty in ("onnxscript", "onnx_ir", "httpx"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        processes = _processes(words)
        if processes > 1 and "RANK" not in os.environ:
            _side_by_side(processes, list(arguments))
        import_module(f"models.training.finetune.{command}").main(words)
    except (ValueError, ModelError, ModuleNotFoundError) as error:
        logging.error("%s", error)
        return 2
    except (FloatingPointError, OSError) as error:
        logging.error("%s", error)
        return 1
    except KeyboardInterrupt:
        logging.error("stopped; the same command goes on from the last checkpoint")
        return 130
    return 0


def _processes(words: Sequence[str]) -> int:
    """What --processes says, before anything heavy is imported."""
    for word, following in zip(words, [*words[1:], ""], strict=False):
        if word == "--processes" and following.isdigit():
            return int(following)
        if word.startswith("--processes=") and word.partition("=")[2].isdigit():
            return int(word.partition("=")[2])
    return 1


def _side_by_side(processes: int, arguments: list[str]) -> None:
    """Become torch's launcher, which starts this module once for each process; accelerate finds its place from that."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    os.execv(sys.executable, [*launcher, "-m", "models.training.finetune", *arguments])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
