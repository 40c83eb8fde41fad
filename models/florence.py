"""Florence-2 grounding the phrases of `roadwork_classes.toml`: where in the picture would each of them be?

Florence-2 writes its answer: a phrase, then four location tokens, phrase by phrase. It always places a phrase, seen or
not, so what counts is how sure it is of the place. Decoding is held to that form (each phrase in turn, four locations),
so every picture takes the same number of steps, and a box's score is the geometric mean of the four probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models import boxes
from models.base import BadWeights, Frame
from models.boxes import Box
from models.detecting import Detecting
from models.torch_model import arrays

TASK = "<CAPTION_TO_PHRASE_GROUNDING>"
BINS = 1000  # location tokens per side
CORNERS = 4


class Florence2(Detecting):
    """A `Florence2ForConditionalGeneration`. The question is put into tokens once, when it loads."""

    def _load(self, directory: Path) -> None:
        self.processor = self._preprocessor(directory, "AutoProcessor")
        self.model = self._pretrained(directory)
        self.table = boxes.classes(self.entry.classes)
        self._phrases = list(self.table.weights)
        blank = np.zeros((8, 8, 3), np.uint8)
        self._question = self.processor(text=TASK + ". ".join(self._phrases), images=[blank], return_tensors="pt")
        tokens = self.processor.tokenizer
        self._places = tokens.convert_tokens_to_ids([f"<loc_{place}>" for place in range(BINS)])
        if tokens.unk_token_id in self._places or None in self._places:
            raise BadWeights(f"{self.entry.key}: its tokenizer lacks location tokens; fetch the repository again")
        self._form, self._boxes_at = self._written(tokens)

    def _written(self, tokens: Any) -> tuple[list[list[int]], list[int]]:
        """Which tokens each step may write, and at which step each phrase's box begins."""
        form, begins = [[tokens.bos_token_id]], []
        for phrase in self._phrases:
            form += [[token] for token in tokens(phrase, add_special_tokens=False)["input_ids"]]
            begins.append(len(form))
            form += [self._places] * CORNERS
        return [*form, [tokens.eos_token_id]], begins

    def generate(self, frames: Sequence[Frame]) -> tuple[Any, Any]:
        """Tokens (N, 1 + steps), the first one being the decoder's start, and logits (N, steps, vocabulary)."""
        import torch

        pixels = self.processor.image_processor(arrays(frames), return_tensors="pt", device=self.device)["pixel_values"]
        written = self.model.generate(
            pixel_values=pixels.to(self.device, self.dtype),
            input_ids=self._question["input_ids"].repeat(len(frames), 1).to(self.device),
            attention_mask=self._question["attention_mask"].repeat(len(frames), 1).to(self.device),
            prefix_allowed_tokens_fn=lambda row, tokens: self._form[len(tokens) - 1],
            max_new_tokens=len(self._form),
            num_beams=1,
            do_sample=False,
            no_repeat_ngram_size=0,  # published with 3, which keeps a phrase from the place of another
            output_logits=True,
            return_dict_in_generate=True,
        )
        return written.sequences, torch.stack(written.logits, 1)

    def detect(self, frames: Sequence[Frame]) -> list[list[Box]]:
        """One box per phrase and frame, at any score."""
        import torch

        tokens, logits = self.generate(frames)
        chosen = tokens[:, 1:, None]
        sure = logits.float().log_softmax(-1).gather(-1, chosen)[..., 0]  # (N, steps)
        place = {token: index for index, token in enumerate(self._places)}
        found = []
        for frame, row, logs in zip(frames, tokens[:, 1:].tolist(), sure.cpu(), strict=True):
            bins = [[place[token] for token in row[at : at + CORNERS]] for at in self._boxes_at]
            corners = self.processor.post_processor.dequantize(torch.tensor(bins), size=frame.size).tolist()
            scores = [float(logs[at : at + CORNERS].mean().exp()) for at in self._boxes_at]
            found.append([Box.of(*each) for each in zip(self._phrases, scores, corners, strict=True)])
        return found
