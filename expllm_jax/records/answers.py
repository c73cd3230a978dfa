"""What can be asked about a face, what is answered, and how an answer is read back.

| task | answer | `read_answer` gives |
|---|---|---|
| label | `Happiness`: one of EXPRESSIONS | str |
| cot | the three-part text as it is | str |
| bbox | `0.1250, 0.2000, 0.5000, 0.6000`: x, y, width, height of the face box | 4 floats |
| landmark | `0.3000, 0.4000; …`: x, y of five points | 5 pairs of floats |
| attr | `0 1 0 …`: absent or present, in the order of CELEBA_40 | 40 ints |
| age_gender_race | `20-29, female, White`: words of faces.attributes; years where no age group is known | 3 strs |
| headpose | `-12.50, 3.00, 0.25`: yaw, pitch, roll in degrees, signs as in faces.attributes | 3 floats |
| caption | the text as it is | str |

The five points are left eye, right eye, nose tip, left and right mouth corner as the picture shows them; 68 points are
reduced to these: the mean of each eye's six, the nose tip, the two outer mouth corners.

Positions are parts of the side of the padded square picture, the one that the model sees, with four decimals: 0 is its
left or upper edge and 1 its right or lower one. (ExpLLM's answers have four decimals as well; whether they are parts of
the square or of the picture before padding is not known. Parts of the square mean the same place in every picture, and
stay true whatever its shape.) What lies outside has numbers below 0 or above 1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import EXPRESSIONS, Annotation
from expllm_jax.faces.attributes import CELEBA_40
from expllm_jax.records.framing import padded_square

TASKS = ("label", "cot", "bbox", "landmark", "attr", "age_gender_race", "headpose", "caption")
"""What can be asked about a face: see the table."""

LOCATED_TASKS = ("bbox", "landmark", "headpose")
"""Tasks whose answers say where something is in the picture, so that turning or shifting it makes them wrong."""

Size = tuple[int, int]
"""Width and height of a picture in pixels."""

Answer = str | tuple[float, ...] | tuple[tuple[float, ...], ...] | tuple[str, ...]


def check_task(task: str) -> None:
    """Raises ExpllmError unless `task` is one of TASKS."""
    if task not in TASKS:
        raise ExpllmError(f"unknown task {task!r}", f"use one of: {', '.join(TASKS)}")


def answer_of(annotation: Annotation, task: str, size: Size | None = None) -> str:
    """The answer that `annotation` has for `task`; "" if any part of it is not known.

    Args:
      annotation: what is known of the face, in pixels of a picture of `size`.
      task: one of TASKS.
      size: width and height of that picture. "bbox" and "landmark" need it.

    Raises:
      ExpllmError: unknown task, no size where one is needed, or a value that cannot be said, naming picture and value.
    """
    check_task(task)
    return _WRITERS[task](annotation, size)


def read_answer(task: str, text: str) -> Answer:
    """The value that `text` states; the inverse of `answer_of`, up to the rounding of numbers.

    Raises ExpllmError unless `text` is written exactly as `answer_of` writes it.
    """
    check_task(task)
    form, read = _READERS[task]
    if not form.fullmatch(text):
        raise ExpllmError(f"{text[:80]!r} is no answer to a {task!r} question", "see expllm_jax.records.answers")
    return read(text)


def five_points(landmarks: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
    """Left eye, right eye, nose tip, left and right mouth corner, as the picture shows them, of 68 (iBUG) or 5 points;
    () of none."""
    if len(landmarks) != 68:
        return landmarks
    eyes = [tuple(sum(axis) / 6 for axis in zip(*landmarks[first : first + 6], strict=True)) for first in (36, 42)]
    return (*eyes, landmarks[30], landmarks[48], landmarks[54])


def _label(annotation: Annotation, size: Size | None) -> str:
    return annotation.expression or ""


def _cot(annotation: Annotation, size: Size | None) -> str:
    return annotation.cot or ""


def _caption(annotation: Annotation, size: Size | None) -> str:
    return annotation.caption or ""


def _bbox(annotation: Annotation, size: Size | None) -> str:
    if not annotation.face_box:
        return ""
    return _numbers(annotation, padded_square(_known(size, annotation, "bbox")).box(annotation.face_box, 1.0), 4)


def _landmark(annotation: Annotation, size: Size | None) -> str:
    points = five_points(annotation.landmarks)
    if not points:
        return ""
    square = padded_square(_known(size, annotation, "landmark"))
    # Points are counted from the centre of a pixel, here one as large as the square, and answers from its edge.
    shares = [[value + 0.5 for value in square.point(x, y, 1.0)] for x, y in points]
    return "; ".join(_numbers(annotation, point, 4) for point in shares)


def _attr(annotation: Annotation, size: Size | None) -> str:
    attributes = annotation.attributes
    if any(name not in attributes for name in CELEBA_40):
        return ""
    if wrong := [name for name in CELEBA_40 if attributes[name] not in (0, 1)]:
        raise ExpllmError(
            f"{annotation.picture} has the attribute {wrong[0]!r} = {attributes[wrong[0]]!r}",
            "give 0 (absent) or 1 (present)",
        )
    return " ".join(str(int(attributes[name])) for name in CELEBA_40)


def _age_gender_race(annotation: Annotation, size: Size | None) -> str:
    attributes = annotation.attributes
    age = attributes.get("age_group", attributes.get("age"))
    if age is None or "gender" not in attributes or "race" not in attributes:
        return ""
    words = (age if isinstance(age, str) else _numbers(annotation, [age], 0), attributes["gender"], attributes["race"])
    text = ", ".join(map(str, words))
    if not _WORDS.fullmatch(text):
        raise ExpllmError(
            f"{annotation.picture} has an age group, gender or race that holds a comma or is empty: {text!r}",
            "use the words of expllm_jax.faces.attributes",
        )
    return text


def _headpose(annotation: Annotation, size: Size | None) -> str:
    attributes = annotation.attributes
    if any(name not in attributes for name in ("yaw", "pitch", "roll")):
        return ""
    return _numbers(annotation, [attributes[name] for name in ("yaw", "pitch", "roll")], 2)


def _known(size: Size | None, annotation: Annotation, task: str) -> Size:
    if size is None:
        raise ExpllmError(
            f"{annotation.picture}: the answer to a {task!r} question depends on the size of the picture",
            "give the picture's size (width, height) as well",
        )
    return size


def _numbers(annotation: Annotation, values: Sequence[str | float], decimals: int) -> str:
    """The numbers with that many decimals; zero never has a sign."""
    numbers = [value for value in values if isinstance(value, (int, float)) and math.isfinite(value)]
    if len(numbers) < len(values):
        raise ExpllmError(
            f"{annotation.picture} has a position, an angle or an age that is no number: {list(values)}",
            "give finite numbers: pixels, degrees, years",
        )
    return ", ".join(f"{round(value, decimals) + 0.0:.{decimals}f}" for value in numbers)


def _floats(text: str) -> tuple[float, ...]:
    return tuple(float(number) for number in text.split(", "))


def _number_form(decimals: int) -> str:
    return rf"(?!-0\.0{{{decimals}}}(?![0-9]))-?(?:0|[1-9][0-9]*)\.[0-9]{{{decimals}}}"


_SHARE, _ANGLE = _number_form(4), _number_form(2)
_WORDS = re.compile(r"[^\s,](?:[^,\n]*[^\s,])?(?:, [^\s,](?:[^,\n]*[^\s,])?){2}")
_ANY_TEXT = re.compile(r".*\S.*", re.DOTALL)

_WRITERS: Mapping[str, Callable[[Annotation, Size | None], str]] = {
    "label": _label,
    "cot": _cot,
    "bbox": _bbox,
    "landmark": _landmark,
    "attr": _attr,
    "age_gender_race": _age_gender_race,
    "headpose": _headpose,
    "caption": _caption,
}
_READERS: Mapping[str, tuple[re.Pattern[str], Callable[[str], Answer]]] = {
    "label": (re.compile("|".join(EXPRESSIONS)), str),
    "cot": (_ANY_TEXT, str),
    "bbox": (re.compile(f"{_SHARE}(?:, {_SHARE}){{3}}"), _floats),
    "landmark": (
        re.compile(f"{_SHARE}, {_SHARE}(?:; {_SHARE}, {_SHARE}){{4}}"),
        lambda text: tuple(_floats(point) for point in text.split("; ")),
    ),
    "attr": (re.compile("[01](?: [01]){39}"), lambda text: tuple(int(value) for value in text.split())),
    "age_gender_race": (_WORDS, lambda text: tuple(text.split(", "))),
    "headpose": (re.compile(f"{_ANGLE}(?:, {_ANGLE}){{2}}"), _floats),
    "caption": (_ANY_TEXT, str),
}
