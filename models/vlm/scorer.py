"""Yes or no about a picture at the speed the card allows: VLMs of known structure through a forward of fixed shapes.

What an engine schedules, this decides beforehand: a picture goes to the nearest of a few grids, a batch to the next
of a few sizes, and for each pair the whole way from pixels to log-odds is one recorded graph. Text before the picture
is computed once per question. Which models: `models.vlm.forward.FAMILIES`. For thinking, and for other models, there is
`models.vlm.engine`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

from models import weights
from models.base import BadWeights, Frame, ModelCrashed, ModelError, ModelUnavailable, OutOfMemory, Unrecoverable
from models.catalog import Entry
from models.installing import pip_install_extra
from models.torch_model import is_card_lost, is_out_of_memory, require
from models.vlm.asking import Answer, VisualQuestion
from models.vlm.prompts import Chat

log = logging.getLogger(__name__)

SIZES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)  # of recorded batches; one is padded to the next, which costs its share
LARGEST = 64 * 66  # tokens of pictures in one batch: 64 small ones, or 16 of the largest
SPARE = 64  # tokens that a second question may be longer than the first
KEPT = 8  # questions of which is kept what they leave behind: up to 150 MB each
WIRE = (224, 224)  # pixels of what validators send: such pictures are resized within the graph
SPLITS = 32  # chats whose tokens are known
AT_ONCE = {"add_generation_prompt": True, "enable_thinking": False}  # templates that know no thoughts ignore the second


class Scorer(VisualQuestion):
    """Keeps `models.base.Model`. Made without work; torch and transformers are imported by `load`.

    float8: weights of the language model in 8 bits, where the card multiplies them; else 16 (32 on the CPU).
    """

    float8 = False

    def __init__(self, entry: Entry, directory: Path | None = None) -> None:
        super().__init__(entry)
        self.prompt = self.prompt.model_copy(update={"question_first": True})
        self.device = "cpu"
        self._directory = directory
        self._model: Any = None

    def load(self, device: str) -> None:
        """Weights to `device`, and the questions through them. Raises BadWeights, ModelUnavailable, OutOfMemory."""
        require("transformers", self.entry.minimum)
        directory = self._directory or weights.locate(self.entry)
        self.device = device
        remedy = f"{directory} does not load; fetch it again: ./run_miner.sh fetch {self.entry.key}"
        with self._typed(BadWeights, remedy):
            self._load(directory)

    def _load(self, directory: Path) -> None:
        torch, transformers = import_module("torch"), import_module("transformers")
        forward, checkpoint = import_module("models.vlm.forward"), import_module("models.vlm.checkpoint")
        config = transformers.AutoConfig.from_pretrained(directory, local_files_only=True)
        if self.entry.class_name not in (config.architectures or ()):
            raise BadWeights(
                f"{self.entry.key}: {directory} holds {config.architectures}, expected {self.entry.class_name}; "
                "check the repository in the catalog"
            )
        if self.float8 and self.device.startswith("cuda") and not import_module("models.fp8").supported(self.device):
            raise ModelUnavailable(f"{self.entry.key}: {self.device} does not multiply float8; take the 16-bit model")
        processor = transformers.AutoImageProcessor.from_pretrained(directory, local_files_only=True)
        family = forward.family_of(self.entry.class_name)
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(directory, local_files_only=True)
        self._image = self._tokenizer.convert_ids_to_tokens(config.image_token_id)
        self._around = family.around(self._tokenizer)
        self._splits: dict[str, tuple[list[int], list[int]]] = {}
        self._suffix = self._split(self.prompt.chats[0])[1]
        yes, no = self.prompt.answer_tokens(self._tokenizer)
        with torch.inference_mode():
            self._model = forward.Forward(
                family,
                config,
                processor.image_mean,
                processor.image_std,
                checkpoint.Checkpoint(directory, self.device, self._dtype, family.aliases),
                suffix=self._suffix,
                yes=yes,
                no=no,
                float8=self.float8,
            )
            self._ready()

    def _ready(self) -> None:
        """Room for the questions, and what they leave behind in it."""
        self._token, self._grids = self._model.tower.token, self._model.tower.grids
        self._graphs: dict[Any, Callable[[Any], Any]] = {}
        self._prefilled = lru_cache(KEPT)(self._model.prefill)
        longest = max(len(self._split(chat)[0]) for chat in self.prompt.chats) + SPARE
        self._longest = -(-longest // 64) * 64
        self._memory = self._model.language.room(len(self.prompt.chats), self._longest)
        self._asked: tuple[tuple[int, ...], ...] = ()
        self._ask(self.prompt.chats)

    def warm_up(self) -> None:
        """Record every grid and batch size; then one blank picture, of the validators' size."""
        for level in self._grids:
            for grid in level:
                self._forward(grid)
        super().warm_up()

    def answers(self, frames: Sequence[Frame], chats: Sequence[Chat]) -> list[list[Answer]]:
        """Per frame, per chat. At most as many chats as the prompt has questions. Raises ModelError."""
        if self._model is None:
            raise ModelUnavailable(f"{self.entry.key}: not loaded; call load(device) first")
        grids = import_module("models.vlm.grids")
        chosen = [grids.choose(*frame.size, self._token, self._grids) for frame in frames]
        said: dict[int, list[Answer]] = {}
        with self._typed(ModelCrashed, f"batch of {len(frames)}"), import_module("torch").inference_mode():
            self._ask(chats)
            for grid in dict.fromkeys(chosen):
                own = [index for index, other in enumerate(chosen) if other == grid]
                for start in range(0, len(own), largest := self._sizes(grid)[-1]):
                    part = own[start : start + largest]
                    logits = self._scored([frames[index] for index in part], grid)
                    for index, row in zip(part, logits, strict=True):
                        said[index] = [Answer(logit, {"grid": str(grid)}) for logit in row[: len(chats)]]
        return [said[index] for index in range(len(frames))]

    def close(self) -> None:
        if self._model is None:
            return
        self._model = None
        del self._graphs, self._memory, self._prefilled
        if self.device.startswith("cuda"):
            import_module("torch").cuda.empty_cache()

    def _scored(self, frames: Sequence[Frame], grid: Any) -> list[list[float]]:
        pictures, device = import_module("models.pictures"), import_module("torch").device(self.device)
        if all(frame.size == WIRE for frame in frames):
            logits = self._forward(grid, wire=True)(pictures.gathered(frames, device))
        else:
            logits = self._forward(grid)(pictures.resized(frames, *self._pixels(grid), device))
        rows: list[list[float]] = logits.tolist()
        return rows

    def _forward(self, grid: Any, wire: bool = False) -> Callable[[Any], Any]:
        """uint8 (N, 3, H, W) of the grid's size, or (N, *WIRE, 3), -> log-odds (N, questions); recorded, on a card."""
        if (grid, wire) not in self._graphs:
            run = partial(self._from_wire if wire else self._model.log_odds, grid=grid, memory=self._memory)
            shape = (1, *WIRE, 3) if wire else (1, 3, *self._pixels(grid))
            self._graphs[grid, wire] = self._recorded(run, grid, shape) if self.device.startswith("cuda") else run
        return self._graphs[grid, wire]

    def _from_wire(self, pictures: Any, grid: Any, memory: Any) -> Any:
        fitting = import_module("models.pictures").to_size(pictures.permute(0, 3, 1, 2), *self._pixels(grid))
        return self._model.log_odds(fitting, grid, memory)

    def _pixels(self, grid: Any) -> tuple[int, int]:
        """Height, width."""
        return grid.rows * self._token, grid.columns * self._token

    def _recorded(self, run: Callable[[Any], Any], grid: Any, shape: tuple[int, ...]) -> Callable[[Any], Any]:
        torch, graphs = import_module("torch"), import_module("models.cuda_graphs")
        if not self._graphs:
            self._pool = torch.cuda.graph_pool_handle()  # one for all grids: only one runs at a time
        example = torch.zeros(shape, dtype=torch.uint8, device=self.device)
        with self._typed(ModelCrashed, f"recording grid {grid}"):
            recorded: Callable[[Any], Any] = graphs.Graphs(
                run, example, sizes=self._sizes(grid), record=lambda work, _: graphs.record(work, self._pool)
            )
        return recorded

    def _sizes(self, grid: Any) -> list[int]:
        return [size for size in SIZES if size == 1 or size * self._memory.questions * grid.tokens <= LARGEST]

    # ---- questions ---------------------------------------------------------------------------------------------------

    def _ask(self, chats: Sequence[Chat]) -> None:
        """Put what the chats leave behind where the graphs read it; the last chat fills what is left."""
        split = [self._split(chat) for chat in chats]
        if any(after != self._suffix for _, after in split):
            raise ModelCrashed(
                f"{self.entry.key}: every chat must end alike after the picture; put questions before it"
            )
        questions = self._memory.questions
        if not 0 < len(split) <= questions:
            raise ModelCrashed(f"{self.entry.key}: expected 1 to {questions} chats, got {len(split)}")
        wanted = tuple(tuple(before) for before, _ in split)
        wanted += wanted[-1:] * (questions - len(wanted))
        if wanted == self._asked:
            return
        if (most := max(map(len, wanted))) > self._longest:
            raise ModelCrashed(f"{self.entry.key}: a question of {most} tokens, room for {self._longest}; shorten it")
        self._asked = ()  # should this fail half way, nothing is taken for done
        for index, before in enumerate(wanted):
            self._memory.write(index, self._prefilled(before), len(before))
        self._asked = wanted

    def _split(self, chat: Chat) -> tuple[list[int], list[int]]:
        """Token ids before the picture and after it; known ones are not rendered again."""
        said = repr(chat)
        if said not in self._splits:
            if len(self._splits) >= SPLITS:
                del self._splits[next(iter(self._splits))]
            self._splits[said] = self._tokens(chat)
        return self._splits[said]

    def _tokens(self, chat: Chat) -> tuple[list[int], list[int]]:
        text = self._tokenizer.apply_chat_template(chat, tokenize=False, **AT_ONCE)
        parts = text.split(self._image)
        if len(parts) != 2:
            raise BadWeights(
                f"{self.entry.key}: the chat template shows {len(parts) - 1} pictures, expected 1; "
                f"the checkpoint's template is not that of {self.entry.class_name}"
            )
        opened, closed = self._around
        before, after = (
            self._tokenizer.encode(part, add_special_tokens=False) for part in (parts[0] + opened, closed + parts[1])
        )
        return before, after

    @property
    def _dtype(self) -> Any:
        torch = import_module("torch")
        return torch.bfloat16 if self.device.startswith("cuda") else torch.float32

    @contextmanager
    def _typed(self, kind: type[ModelError], doing: str) -> Iterator[None]:
        """What libraries raise, as ModelError."""
        try:
            yield
        except ModelError:
            raise
        except ImportError as error:
            raise ModelUnavailable(f"{self.entry.key}: {error}; {pip_install_extra('gpu')}") from error
        except Exception as error:
            if is_out_of_memory(error):
                raise OutOfMemory(f"{self.entry.key}: no room on {self.device}: {doing}") from error
            kind = Unrecoverable if is_card_lost(error) else kind
            raise kind(f"{self.entry.key}: {type(error).__name__}: {str(error)[:300]} ({doing})") from error


class Float8Scorer(Scorer):
    """The same with the language model's weights in 8 bits."""

    float8 = True
