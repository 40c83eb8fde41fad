"""A VLM as a classifier: the log-odds of its one-token answer, and the loss that trains them. torch only.

logsumexp of the spellings of yes minus logsumexp of those of no, at the place of the answer: what the engines read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torch.nn import functional

from models.training.finetune.lora import add_lora, save_memory

LANGUAGE, VISION = "language_model", "visual"  # as transformers calls the two halves of a Qwen3-VL


class Answer(nn.Module):
    """A VLM's inputs -> (N,) log-odds of yes. yes, no: ids of the spellings of the two answers."""

    def __init__(self, model: nn.Module, yes: Sequence[int], no: Sequence[int]) -> None:
        super().__init__()
        self.model = model
        self.yes, self.no = list(yes), list(no)

    def forward(self, **inputs: Tensor) -> Tensor:
        logits = self.model(**inputs, logits_to_keep=1, use_cache=False).logits[:, -1].float()  # (N, vocabulary)
        return logits[:, self.yes].logsumexp(1) - logits[:, self.no].logsumexp(1)


def yes_no_loss(logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """Binary cross-entropy of the answer's log-odds (N,)."""
    return functional.binary_cross_entropy_with_logits(logits, batch["targets"][:, 0])


def with_lora(model: nn.Module, rank: int, *, vision: bool = False, checkpointing: bool = False) -> nn.Module:
    """`model` (a whole Qwen3-VL) with LoRA matrices on the linear layers that learn; all else is frozen."""
    parts = (LANGUAGE, VISION) if vision else (LANGUAGE,)
    ready = add_lora(model, rank, parts)
    if checkpointing:
        save_memory(model)
    return ready
