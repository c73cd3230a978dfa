"""The report's gallery: held-out faces, right and wrong alike, each with its text and its units, true beside stated."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageOps

from expllm_jax.cot import STATED_FROM, band_of
from expllm_jax.errors import ExpllmError
from expllm_jax.evaluate.evaluated import EvaluatedFace
from expllm_jax.evaluate.markup import data_uri, reasoning, text
from expllm_jax.evaluate.units import BAND_ORDER
from expllm_jax.faces import FACS

_SIDE = 224  # pixels of an embedded picture's longer side: sharp on a phone, about 10 kB each


def choose_faces(faces: Sequence[EvaluatedFace], count: int) -> list[EvaluatedFace]:
    """`count` faces, half of them wrong where there are that many, otherwise topped up; wrong and right alternate.

    Within each half the expressions take turns and, within an expression, the order is that of a hash of the record id:
    always the same faces for the same run, and nobody's choice.
    """
    wrong = _taking_turns([face for face in faces if not face.correct])
    right = _taking_turns([face for face in faces if face.correct])
    wrong_count = min(len(wrong), max(count // 2, count - len(right)))
    right_count = min(len(right), count - wrong_count)
    chosen = []
    for place in range(max(wrong_count, right_count)):
        chosen += right[place : min(place + 1, right_count)] + wrong[place : min(place + 1, wrong_count)]
    return chosen


def _taking_turns(faces: Sequence[EvaluatedFace]) -> list[EvaluatedFace]:
    queues: dict[str, list[EvaluatedFace]] = {}
    for face in sorted(faces, key=lambda face: hashlib.sha256(face.record.encode()).digest()):
        queues.setdefault(face.expression, []).append(face)
    longest = max(map(len, queues.values()), default=0)
    return [queues[name][turn] for turn in range(longest) for name in sorted(queues) if turn < len(queues[name])]


def embedded_picture(picture: Path | bytes, *, side: int = _SIDE, mirrored: bool = False) -> str:
    """A picture file, or its content, as a data address: a small JPEG without metadata, `side` pixels at most.

    Raises ExpllmError when it cannot be read.
    """
    try:
        with Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture) as opened:
            small = opened.convert("RGB")
        small.thumbnail((side, side))
        if mirrored:
            small = ImageOps.mirror(small)
        buffer = io.BytesIO()
        small.save(buffer, format="JPEG", quality=85)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        name = "the picture" if isinstance(picture, bytes) else picture
        raise ExpllmError(
            f"cannot show {name} on a page: {error}", "it could be read before; put it back as it was"
        ) from error
    return data_uri(buffer.getvalue(), "image/jpeg")


def _unit_row(code: str, face: EvaluatedFace) -> str:
    """One unit: name, bar of the true intensity, scale of the stated band, and the verdict in a word."""
    intensity = face.units.get(code)
    stated = code in face.credited
    verdict, kind = {
        (True, True): ("seen", "good"),
        (True, False): ("missed", "bad"),
        (False, True): ("not there", "bad"),
        (False, False): ("faint", "mute"),
        (None, True): ("unknown", "mute"),
    }[None if intensity is None else intensity >= STATED_FROM, stated]
    band = face.credited.get(code) if stated else None
    level = BAND_ORDER.index(band) + 1 if band in BAND_ORDER else 0
    steps = "".join(f'<i class="{"on" if step < level else "off"}"></i>' for step in range(len(BAND_ORDER)))
    name = FACS.unit(code).name if code in FACS else code
    true_word = "unknown" if intensity is None else band_of(intensity) if intensity > 0 else "absent"
    percent = "" if intensity is None else f"{100 * intensity:.0f} % "
    stated_word = (band or "no degree given") if stated else "not stated"
    return (
        f'<tr><th scope="row"><b>{text(code)}</b> {text(name)}</th>'
        f'<td><span class="bar" aria-hidden="true"><i style="width:{100 * (intensity or 0):.0f}%"></i></span>'
        f"<small>{percent}{text(true_word)}</small></td>"
        f'<td><span class="steps" aria-hidden="true">{steps}</span><small>{text(stated_word)}</small></td>'
        f'<td><span class="verdict {kind}">{verdict}</span></td></tr>'
    )


def _units_table(face: EvaluatedFace) -> str:
    position = {code: index for index, code in enumerate(FACS.codes)}
    codes = {code for code, intensity in face.units.items() if intensity > 0} | set(face.credited)
    if not codes:
        return '<p class="mute small">No action units: none in the face, none in the text.</p>'
    rows = "".join(_unit_row(code, face) for code in sorted(codes, key=lambda code: (position.get(code, 999), code)))
    return (
        '<table class="units"><thead><tr><th scope="col">action unit</th><th scope="col">true</th>'
        f'<th scope="col">stated</th><th scope="col"><span class="hidden">verdict</span></th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def face_card(face: EvaluatedFace) -> str:
    """One face as HTML: picture, labels, units side by side, the whole text."""
    picture = (
        f'<img class="face" src="{embedded_picture(face.picture)}" alt="{text(f"Face of record {face.record}")}">'
        if face.picture is not None
        else '<div class="face none">no picture</div>'
    )
    predicted = face.predicted if face.predicted is not None else f"unparsable: “{(face.label_text or '')[:60]}”"
    word, sign, kind = ("right", "✓", "good") if face.correct else ("wrong", "✗", "bad")
    failure = (
        f'<p class="notice">This text could not be parsed: {text(face.cot_failure)}. It gets no credit.</p>'
        if face.cot_failure is not None
        else ""
    )
    differs = (
        f"<dt>text concludes</dt><dd>{text(face.concluded)}</dd>"
        if face.concluded is not None and face.concluded != face.predicted
        else ""
    )
    told = "" if face.cot is None else f'<div class="text">{reasoning(face.cot)}</div>'
    return (
        f'<article class="card {kind}"><div class="top">{picture}<div>'
        f'<span class="verdict {kind}">{sign} {word}</span>'
        f"<dl><dt>true</dt><dd>{text(face.expression)}</dd><dt>predicted</dt><dd>{text(predicted)}</dd>{differs}</dl>"
        f'<p class="mute small">{text(face.split)} · {text(face.record)}</p></div></div>'
        f"{_units_table(face)}{failure}{told}</article>"
    )
