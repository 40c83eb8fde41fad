"""LoRA matrices on any network's linear layers, and activations computed twice: what saves memory in training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import peft
from torch import nn


def add_lora(module: nn.Module, rank: int, parts: Sequence[str] = ()) -> Any:
    """`module`, frozen, with LoRA on its linear layers, or on those below modules with one of the names `parts`."""
    # Of this very type: the output of torch's own attention is a kind of it whose weight is used without being called.
    linear = [
        name
        for name, each in module.named_modules()
        if type(each) is nn.Linear and (not parts or set(parts) & set(name.split(".")))
    ]
    if not linear:
        raise ValueError("LoRA needs linear layers, and this backbone has none; use --tune full or head")
    return peft.get_peft_model(module, peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=linear))


def save_memory(module: nn.Module) -> None:
    """Gradient checkpointing, by the library's own name. Raises ValueError for a module that has none."""
    if hasattr(module, "gradient_checkpointing_enable"):
        module.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    elif hasattr(module, "set_grad_checkpointing"):
        module.set_grad_checkpointing()
    else:
        raise ValueError("this backbone cannot compute activations twice; leave --checkpointing out")
