"""The report's gallery: held-out faces, right, wrong and contradictory alike, each with its text, its units, true
beside stated, and where on the face those units show.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from expllm_jax.cot import STATED_FROM, band_of
from expllm_jax.errors import ExpllmError
from expllm_jax.evaluate.evaluated import EvaluatedFace
from expllm_jax.evaluate.markup import data_uri, percent, reasoning, text
from expllm_jax.evaluate.units import BAND_ORDER
from expllm_jax.faces import FACS
from expllm_jax.faces.regions import LANDMARK_REGIONS, region_ellipses

_SIDE = 224  # pixels of an embedded picture's longer side: sharp on a phone, about 10 kB each


@dataclass(frozen=True)
class FaceView:
    """What is shown of a face beside its answer."""

    picture: bytes | Path
    landmarks: Sequence[tuple[float, float]] = ()  # 68, in pixels of the picture; without them no regions are drawn


def choose_faces(faces: Sequence[EvaluatedFace], count: int) -> list[EvaluatedFace]:
    """`count` faces: right ones, wrong ones and ones whose text contradicts the label, a third each where there are
    that many, otherwise topped up; the kinds alternate.

    Within each kind the expressions take turns and, within an expression, the order is that of a hash of the record id:
    always the same faces for the same run, and nobody's choice.
    """
    queues = [
        _taking_turns([face for face in faces if face.correct and not face.contradicts]),
        _taking_turns([face for face in faces if not face.correct and not face.contradicts]),
        _taking_turns([face for face in faces if face.contradicts]),
    ]
    chosen: list[EvaluatedFace] = []
    for turn in range(max(map(len, queues))):
        chosen += [queue[turn] for queue in queues if turn < len(queue)]
    return chosen[:count]


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


def _overlay(face: EvaluatedFace, landmarks: np.ndarray, size: tuple[int, int]) -> str:
    """Ellipses where the stated units show: drawn for those that the face has, dashed for those that it has not."""
    shapes = []
    for code in face.credited:
        if code not in LANDMARK_REGIONS:
            continue
        intensity = face.units.get(code)
        kind = "unknown" if intensity is None else "there" if intensity >= STATED_FROM else "not-there"
        for x, y, rx, ry in region_ellipses(code, landmarks):
            place = f'cx="{x:.1f}" cy="{y:.1f}" rx="{rx:.1f}" ry="{ry:.1f}"'
            shapes.append(f'<ellipse class="{kind}" {place}><title>{text(code)}</title></ellipse>')
    width, height = size
    return (
        f'<svg class="regions" viewBox="0 0 {width} {height}" preserveAspectRatio="xMidYMid slice" role="img" '
        f'aria-label="Where the stated units show">{"".join(shapes)}</svg>'
    )


def face_card(face: EvaluatedFace, view: FaceView | None = None) -> str:
    """One face as HTML: picture, labels, units side by side, the whole text.

    With 68 landmarks in the `view`, the regions of the stated units are drawn over the picture. Without a view, the
    face's own picture file is shown.
    """
    if view is None and face.picture is not None:
        view = FaceView(face.picture)
    if view is None:
        picture = '<div class="face none">no picture</div>'
    else:
        shown = f'<img src="{embedded_picture(view.picture)}" alt="{text(f"Face of record {face.record}")}">'
        if len(view.landmarks) == 68:
            with Image.open(io.BytesIO(view.picture) if isinstance(view.picture, bytes) else view.picture) as opened:
                shown += _overlay(face, np.array(view.landmarks), opened.size)
        picture = f'<div class="face">{shown}</div>'
    predicted = face.predicted if face.predicted is not None else f"unparsable: “{(face.label_text or '')[:60]}”"
    word, sign, kind = ("right", "✓", "good") if face.correct else ("wrong", "✗", "bad")
    failure = (
        f'<p class="notice">This text could not be parsed: {text(face.cot_failure)}. It gets no credit.</p>'
        if face.cot_failure is not None
        else ""
    )
    differs = (
        f'<dt>text concludes</dt><dd><span class="verdict bad">{text(face.concluded)}</span></dd>'
        if face.contradicts
        else ""
    )
    sure = f" ({percent(face.probabilities[face.predicted], 0)})" if face.predicted in face.probabilities else ""
    told = "" if face.cot is None else f'<div class="text">{reasoning(face.cot)}</div>'
    return (
        f'<article class="card {kind}"><div class="top">{picture}<div>'
        f'<span class="verdict {kind}">{sign} {word}</span>'
        f"<dl><dt>true</dt><dd>{text(face.expression)}</dd><dt>predicted</dt><dd>{text(predicted)}{sure}</dd>{differs}</dl>"
        f'<p class="mute small">{text(face.split)} · {text(face.record)}</p></div></div>'
        f"{_units_table(face)}{failure}{told}</article>"
    )
