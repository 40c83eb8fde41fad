"""transformers, one picture at a time: what the other ways to ask the same weights are held against."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers

from models.base import Frame
from models.vlm.pictures import shrunk
from models.vlm.prompts import Chat, Prompt


class Reference:
    """A Qwen3-VL checkpoint, 32 bits."""

    def __init__(self, directory: Path) -> None:
        self.processor = transformers.AutoProcessor.from_pretrained(directory)
        self.model = transformers.Qwen3VLForConditionalGeneration.from_pretrained(directory).eval()

    def log_odds(self, frame: Frame, prompt: Prompt, chat: Chat, max_pixels: int, said: str = "") -> float:
        """Log-odds of yes after the chat, and after what the model is taken to have said since."""
        text = self.processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) + said
        inputs = self.processor(text=[text], images=[shrunk(frame, max_pixels)], return_tensors="pt")
        with torch.inference_mode():
            logits = self.model(**inputs).logits[0, -1].double()
        yes, no = prompt.answer_tokens(self.processor.tokenizer)
        return float(logits[yes].logsumexp(0) - logits[no].logsumexp(0))
