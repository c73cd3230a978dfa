"""One record as a person wants to see it: the picture, what is known of it, and the conversation with its mask."""

from __future__ import annotations

import html
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from expllm_jax.evaluate.gallery import embedded_picture
from expllm_jax.evaluate.markup import page, table, text
from expllm_jax.evaluate.token_view import TokenView, view_row, weight_ranks
from expllm_jax.faces import VOCABULARIES, Annotation
from expllm_jax.files import write_whole
from expllm_jax.records import Record, Tokenizer

_SIDE = 448
_COLOURS = {1: "\x1b[1;32m", 2: "\x1b[33m", 3: "\x1b[36m"}
"""Terminal colours of the ranks of weights; those further down share the last."""
_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"


@dataclass(frozen=True)
class RowView:
    """One of a record's rows."""

    name: str  # "row", "mirrored row"
    tokens: Sequence[TokenView]
    length: int  # tokens, every place of a picture counted

    @property
    def learnt(self) -> list[TokenView]:
        return [token for token in self.tokens if token.weight > 0]

    @property
    def segments(self) -> dict[int, int]:
        """Segment → tokens in view; the places of a picture count as one."""
        return dict(Counter(token.segment for token in self.tokens))

    def describe(self) -> str:
        """Length, how much of it is learnt and with which weights, in a sentence."""
        total = sum(token.weight for token in self.learnt)
        weights = Counter(token.weight for token in self.learnt)
        each = ", ".join(f"{count:,} of {weight:.3g}" for weight, count in sorted(weights.items(), reverse=True))
        rounds = len([segment for segment in self.segments if segment > 1])
        return (
            f"{self.length:,} tokens in {rounds} segment{'s' if rounds != 1 else ''} behind the prefix; "
            f"{len(self.learnt):,} are learnt, their weights sum to {total:.3f} ({each})"
        )


@dataclass(frozen=True)
class RecordView:
    """A record and its rows, decoded."""

    record: Record
    place: str  # where it stands: folder, split and number
    rows: tuple[RowView, ...]  # its row and, where that differs, the mirrored one
    size: tuple[int, int]  # of the picture: width, height

    @property
    def annotation(self) -> Annotation:
        return self.record.annotation


def view_record(record: Record, tokenizer: Tokenizer, *, place: str) -> RecordView:
    """Decodes a record; `place` says where it stands."""
    rows = [("row", record.row), ("mirrored row", record.mirrored)]
    with Image.open(io.BytesIO(record.picture)) as picture:
        size = picture.size
    views = tuple(RowView(name, view_row(row, tokenizer), len(row)) for name, row in rows if row is not None)
    return RecordView(record, place, views, size)


def facts(view: RecordView) -> list[tuple[str, str]]:
    """What is known of the record, as rows of a table."""
    record, known = view.record, view.annotation
    rows = [("record", record.id), ("place", view.place), ("expression", known.expression or "none")]
    rows += [(f"{vocabulary} units", _units_text(units)) for vocabulary, units in known.units.items()]
    rows.append(("picture", f"{view.size[0]} x {view.size[1]}, {len(record.picture):,} bytes"))
    if known.identity:
        rows.append(("identity", known.identity))
    if known.face_box:
        rows.append(("face box", ", ".join(f"{value:g}" for value in known.face_box)))
    if known.landmarks:
        rows.append(("landmarks", f"{len(known.landmarks)} points"))
    rows += [
        (name, f"{value:g}" if isinstance(value, float) else str(value)) for name, value in known.attributes.items()
    ]
    rows += [(f"from: {name}", str(value)) for name, value in known.provenance.items()]
    rows += [(row.name, row.describe()) for row in view.rows]
    if len(view.rows) == 1:
        rows.append(("mirrored row", "the same: nothing in the conversation has a side"))
    return rows


def _units_text(units: Mapping[str, float]) -> str:
    """The units that are there, and how many are known not to be."""
    there = ", ".join(f"{code} {value:.2f}" for code, value in units.items() if value > 0)
    absent = sum(value == 0 for value in units.values())
    return "; ".join(part for part in (there, f"{absent} absent" if absent else "") if part) or "none known"


def terminal_text(view: RecordView, *, colour: bool) -> str:
    """The record for a terminal. What is learnt is coloured by its weight or, without colours, stands in ⟦ ⟧."""
    known = facts(view)
    width = min(24, max(len(name) for name, _ in known))
    parts = ["\n".join(f"{name:<{width}}  {value}" for name, value in known)]
    parts += [f"── {row.name} " + "─" * 40 + "\n" + _row_text(row, colour) for row in view.rows]
    legend = (
        "given: dim; learnt: coloured, by weight" if colour else "learnt: what stands in ⟦ ⟧; ‹ › are special tokens"
    )
    return "\n\n".join([*parts, legend])


def _row_text(row: RowView, colour: bool) -> str:
    ranks = weight_ranks(row.tokens)
    text_so_far, before = "", None
    for token in row.tokens:
        rank = ranks.get(token.weight, 0)
        if rank != before:
            text_so_far += _leave(before, colour) + _enter(rank, colour)
            before = rank
        shown = f"‹{token.text}›" if token.special else _printable(token.text)
        text_so_far += shown
    return text_so_far + _leave(before, colour)


def _enter(rank: int, colour: bool) -> str:
    if not colour:
        return "⟦" if rank else ""
    return _COLOURS[min(rank, len(_COLOURS))] if rank else _DIM


def _leave(rank: int | None, colour: bool) -> str:
    if rank is None:
        return ""
    if not colour:
        return "⟧" if rank else ""
    return _PLAIN


def _printable(raw: str) -> str:
    """A text cannot move the cursor or change colours of its own."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "\N{REPLACEMENT CHARACTER}" for letter in raw)


def render_record_page(view: RecordView) -> str:
    """The record as one self-contained HTML page; all that comes from data is escaped."""
    record = view.record
    parts = []
    for number, row in enumerate(view.rows):
        mirrored = number > 0
        picture = embedded_picture(record.picture, side=_SIDE, mirrored=mirrored)
        alt = "the picture, mirrored" if mirrored else "the picture"
        parts.append(
            f'<section><h2>{text(row.name.capitalize())}</h2><div class="record">'
            f'<figure><img class="plot" src="{picture}" alt="{alt}"></figure>'
            f'<div class="panel"><p class="mute small">{text(row.describe())}</p>'
            f'<div class="row">{_row_html(row)}</div></div></div></section>'
        )
    units = "".join(
        table(
            ("unit", "name", "intensity"),
            [
                (code, VOCABULARIES[vocabulary].unit(code).name, f"{value:.2f}")
                for code, value in values.items()
                if value
            ],
            caption=vocabulary,
        )
        for vocabulary, values in view.annotation.units.items()
        if any(values.values())
    )
    lead = "Grey is given; coloured is learnt, each weight in a colour of its own. Point at a token for its numbers."
    known = table((), facts(view), caption="What is known", hidden=True)
    body = "".join(parts) + f"<section><h2>What is known</h2>{known}</section>"
    if units:
        body += f'<section><h2>Action units</h2><div class="grid plots">{units}</div></section>'
    return page(record.id, lead, body)


def write_record_page(path: str | Path, view: RecordView) -> Path:
    """Writes `render_record_page`, all or nothing. Raises ExpllmError if the file cannot be written."""
    return write_whole(path, render_record_page(view))


def _row_html(row: RowView) -> str:
    ranks = weight_ranks(row.tokens)
    pieces = []
    for token in row.tokens:
        rank = min(3, ranks.get(token.weight, 0))
        title = f"token {token.token}, position {token.position}, segment {token.segment}, weight {token.weight:.4g}"
        name = "b" if rank else "i"
        kinds = " ".join([*([f"w{rank}"] if rank else []), *(["special"] if token.special else [])])
        kind = f' class="{kinds}"' if kinds else ""
        shown = html.escape(token.text, quote=True)
        pieces.append(f'<{name}{kind} title="{text(title)}">{shown}</{name}>')
    return "".join(pieces)
