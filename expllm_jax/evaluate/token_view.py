"""A row of tokens as a person can read it: every token with the text it stands for and the weight it is learnt with."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from expllm_jax.records import EncodedRow, Tokenizer

_RESTART = 32  # tokens after which decoding begins anew at a line end, so that long answers cost no square of theirs
_UNFINISHED = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class TokenView:
    """One token, or all the places of a picture together."""

    text: str  # what it adds to the conversation; "" for a byte of a character that a later token completes
    token: int
    position: int
    segment: int
    weight: float  # in the loss; 0 for what is given
    special: bool = False  # `text` names the token and is no part of the conversation


def view_row(row: EncodedRow, tokenizer: Tokenizer) -> list[TokenView]:
    """The tokens of a row in order; the texts of those that are not special, joined, are the conversation."""
    names = {tokenizer.pad: "padding", tokenizer.bos: "begin", tokenizer.eos: "end", tokenizer.image: "picture"}
    if len(row) and row.tokens[0] == tokenizer.bos:
        opening, rest = [TokenView("begin", *_numbers(row, 0), special=True)], range(1, len(row))
    else:
        opening, rest = [], range(len(row))
    views = opening
    for name, places in itertools.groupby(rest, key=lambda place: names.get(int(row.tokens[place]), "")):
        run = list(places)
        if name == "picture":
            views.append(TokenView(f"picture: {len(run):,} places", *_numbers(row, run[0]), special=True))
        elif name:
            views += [TokenView(name, *_numbers(row, place), special=True) for place in run]
        else:
            texts = _texts([int(row.tokens[place]) for place in run], tokenizer)
            views += [TokenView(text, *_numbers(row, place)) for text, place in zip(texts, run, strict=True)]
    return views


def _numbers(row: EncodedRow, place: int) -> tuple[int, int, int, float]:
    return (
        int(row.tokens[place]),
        int(row.positions[place]),
        int(row.segments[place]),
        float(row.loss_weights[place]),
    )


def _texts(tokens: Sequence[int], tokenizer: Tokenizer) -> list[str]:
    """What each token adds to the text of those before it."""
    texts: list[str] = []
    start, said = 0, ""
    for place in range(len(tokens)):
        now = tokenizer.decode(tokens[start : place + 1])
        if now.endswith(_UNFINISHED) and place + 1 < len(tokens):
            texts.append("")  # bytes of a character that the next token goes on with
            continue
        texts.append(now[len(said) :])
        said = now
        if place - start >= _RESTART and now.endswith("\n"):
            start, said = place + 1, ""
    return texts


def weight_ranks(views: Sequence[TokenView]) -> dict[float, int]:
    """Each weight above 0 and its rank, 1 for the largest: what it is coloured by."""
    weights = sorted({view.weight for view in views if view.weight > 0}, reverse=True)
    return {weight: rank for rank, weight in enumerate(weights, start=1)}
