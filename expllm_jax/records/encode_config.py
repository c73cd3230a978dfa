"""How annotations become rows and pictures: the one configuration of `records.encode`, checked when it is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from expllm_jax.errors import ExpllmError
from expllm_jax.records.answers import TASKS, check_task
from expllm_jax.records.conversation import EXPRESSION_TASKS
from expllm_jax.records.pictures import SMALLEST_SIDE, check_picture_format, check_resize
from expllm_jax.records.round_order import QUESTION_INDEX

LAYOUTS = ("branched", "chained", "reference")
WEIGHTINGS = ("rounds", "tokens")
LABEL_WEIGHT, COT_WEIGHT = 3.0, 1.0
"""Of the rounds in a row's loss by default: 3 : 1, as ExpLLM's lists repeat label and CoT records."""
OTHER_WEIGHT = 1.0
"""Of a round of any other task: ExpLLM's lists for those have every record once."""
PICTURES = ("original", "square", "face")
PICTURE_SIZE = 224


@dataclass(frozen=True)
class EncodeConfig:
    """How annotations become rows."""

    image_tokens: int = 256  # placeholders per picture, as many as the projector gives; 1 to 4096
    layout: str = "branched"  # "branched", "chained" or "reference"
    tasks: tuple[str, ...] = EXPRESSION_TASKS  # which rounds, in which order; without those that have no answer
    order: str = "tasks"  # "tasks", or "all", "box", "box_first", "shuffled": see records.round_order
    order_seed: int = 0  # of the shuffled orders, together with the picture's name; 0 to 2³² - 1
    weighting: str = ""  # of the loss: "rounds", "tokens"; "" is "tokens" in layout "reference" and "rounds" in others
    label_weight: float = LABEL_WEIGHT  # with "rounds": share of the label round in the loss, against …
    cot_weight: float = COT_WEIGHT  # … that of the CoT round; 0 learns nothing from it
    legacy: bool = True  # layout "reference": the key of that name in the checkpoint's tokenizer_config.json
    mirror: bool = True  # make the row of the mirrored picture as well; False where training never flips
    picture: str = "original"  # what is stored: "original", as the file has it; "square", padded and resized; or …
    crop_margin: float = 0.0  # … "face", cut to the face box and this part of its size on each side, then "square"
    picture_size: int = PICTURE_SIZE  # pixels a side of what is stored, unless it is "original"
    resize: str = "antialiased"  # to that size and to the model's; "reference": as OpenCV does it, which aliases
    picture_format: str = "png"  # of what is stored, unless "original": "png", or "jpeg", which is not exact

    def __post_init__(self) -> None:
        check_layout(self.image_tokens, self.layout)
        checked_weighting(self.layout, self.weighting, self.label_weight, self.cot_weight)
        round_shares(self.tasks, self.label_weight, self.cot_weight)
        if self.order not in ("tasks", *QUESTION_INDEX):
            raise ExpllmError(f"unknown order {self.order!r}", f"use one of: tasks, {', '.join(QUESTION_INDEX)}")
        if not 0 <= self.order_seed < 2**32:
            raise ExpllmError(f"order_seed is {self.order_seed}", "use 0 to 4294967295")
        if not self.legacy and self.layout != "reference":
            raise ExpllmError(
                f'legacy is false, which has no effect in layout "{self.layout}"',
                'leave it out, or set layout="reference"',
            )
        if not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise ExpllmError(f"tasks {self.tasks} is empty or names a task twice", f"choose among {', '.join(TASKS)}")
        self._check_picture()

    @property
    def chained(self) -> bool:
        """Whether the rounds of a row stand one behind the other, none beside another; see `ExpLLMConfig.chained`."""
        return self.layout != "branched"

    def _check_picture(self) -> None:
        check_picture_format(self.picture_format)
        check_resize(self.resize)
        made = (self.picture_size, self.picture_format)
        for holds, problem, remedy in (
            (self.picture in PICTURES, f"unknown picture {self.picture!r}", f"use one of: {', '.join(PICTURES)}"),
            (SMALLEST_SIDE <= self.picture_size <= 4096, f"picture_size is {self.picture_size}",
             f"use {SMALLEST_SIDE} to 4096"),
            (0 <= self.crop_margin <= 4, f"crop_margin is {self.crop_margin}", "use 0 to 4"),
            (self.picture == "face" or self.crop_margin == 0, "crop_margin has no effect without a crop",
             'leave it out, or set picture="face"'),
            (self.picture != "original" or made == (PICTURE_SIZE, "png"),
             "picture_size and picture_format have no effect on original pictures",
             'leave them out, or set picture="square"'),
        ):  # fmt: skip
            if not holds:
                raise ExpllmError(problem, remedy)


def check_layout(image_tokens: int, layout: str) -> None:
    """Raises ExpllmError for an unknown layout, or image_tokens out of range."""
    if layout not in LAYOUTS:
        raise ExpllmError(f"unknown layout {layout!r}", f"use one of: {', '.join(LAYOUTS)}")
    if not 1 <= image_tokens <= 4096:
        raise ExpllmError(f"image_tokens is {image_tokens}", "use a number from 1 to 4096")


def checked_weighting(layout: str, weighting: str, label_weight: float, cot_weight: float) -> str:
    """The weighting that is meant; raises ExpllmError if it is unknown or makes a chosen weight meaningless."""
    if weighting not in ("", *WEIGHTINGS):
        raise ExpllmError(f"unknown weighting {weighting!r}", f"use one of: {', '.join(WEIGHTINGS)}")
    meant = weighting or ("tokens" if layout == "reference" else "rounds")
    if meant == "tokens" and (label_weight, cot_weight) != (LABEL_WEIGHT, COT_WEIGHT):
        raise ExpllmError(
            f'label_weight {label_weight:g} and cot_weight {cot_weight:g} have no effect with weighting "tokens"',
            'leave them out, or set weighting="rounds"',
        )
    return meant


def round_shares(tasks: Sequence[str], label_weight: float, cot_weight: float) -> list[float]:
    """Shares of the rounds in a row's loss; they sum to 1."""
    for task in tasks:
        check_task(task)
    named = {"label": label_weight, "cot": cot_weight}
    weights = [named.get(task, OTHER_WEIGHT) for task in tasks]
    total = sum(weights)
    if not tasks or min(label_weight, cot_weight) < 0 or not 0 < total < float("inf"):
        raise ExpllmError(
            f"nothing to learn: rounds {list(tasks)} with label_weight {label_weight} and cot_weight {cot_weight}",
            "give at least one round a weight above 0, and none a negative one",
        )
    return [weight / total for weight in weights]
