"""What may be chosen next is exactly what can still end, in time, in an answer of the language."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expllm_jax.cot import HEADINGS, parse_cot, parse_label
from expllm_jax.errors import ExpllmError
from expllm_jax.faces import BASIC_7, EXPRESSIONS
from expllm_jax.infer.constraint import (
    Constraint,
    ConstraintState,
    after,
    allowed_tokens,
    compile_constraint,
    fewest_tokens,
    start,
)
from expllm_jax.infer.token_automaton import UNREACHABLE
from expllm_jax.infer.token_loop import form_behind
from expllm_jax.records import decode_answer
from tests.cot.plain_language import belongs
from tests.records import conftest as trained

# The tokenizers that the tests of records train: our own, LLaMA's kind, byte BPE.
template, texts, tokenizer = trained.template, trained.texts, trained.tokenizer
own_tokenizer, llama_tokenizer, bpe_tokenizer = trained.own_tokenizer, trained.llama_tokenizer, trained.bpe_tokenizer

EOS = 0
MOST, PART_TOKENS = 200, (80, 60, 50)
OPEN = [f" {HEADINGS[0]} ", f"\n\n{HEADINGS[1]} ", f"\n\n{HEADINGS[2]} "]
PIECES = [
    *("a", " ", "happy", "sad", "ness", "un", "not ", "no", ", ", "Sad", "\n", "é", "—"),
    *(f"a{OPEN[1]}a", f"{OPEN[1]}a{OPEN[2]}", f"a{OPEN[2]}happy", OPEN[2][:-3], OPEN[2][-3:], f"{OPEN[0]}a"),
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ToyTokenizer:
    """Tokens by hand: the end token, one that is special, and pieces of text."""

    pieces: tuple[bytes, ...]
    eos: int = EOS

    def token_bytes(self) -> list[bytes]:
        return [b"", b"", *self.pieces]


class Oracle:
    """Every answer of at most `room` tokens, found by trying them all."""

    def __init__(self, contents: Sequence[bytes], allowed: Sequence[str], room: int, part_tokens: Sequence[int] | None):
        self._contents, self._allowed, self._limits = contents, allowed, part_tokens
        self.next: dict[tuple[int, ...], set[int]] = {}  # beginning -> the tokens that can still come to an end
        self._try((), b"", room)

    def _try(self, tokens: tuple[int, ...], content: bytes, left: int) -> bool:
        if left == 0 or not _could_begin(content) or not self._within_limits(tokens):
            return False
        good = set()
        if self._is_answer(content):
            good.add(EOS)
        for token, more in enumerate(self._contents):
            if more and self._try((*tokens, token), content + more, left - 1):
                good.add(token)
        if good:
            self.next[tokens] = good
        return bool(good)

    def _is_answer(self, content: bytes) -> bool:
        try:
            text = content.decode()
        except UnicodeDecodeError:
            return False
        return text.startswith(" ") and belongs(text[1:], self._allowed)

    def _within_limits(self, tokens: tuple[int, ...]) -> bool:
        if self._limits is None:
            return True
        used, content = [0, 0, 0], b""
        for token in tokens:
            content += self._contents[token]
            used[(content.count(b"\n") + 1) // 2] += 1  # a part begins with the blank line before its heading
        return all(count <= limit for count, limit in zip(used, self._limits, strict=True))


def _could_begin(content: bytes) -> bool:
    """Whether an answer might begin like this, going by the headings alone."""
    opened = OPEN[0].encode()
    for following in (*OPEN[1:], None):
        if len(content) <= len(opened):
            return opened.startswith(content)
        if not content.startswith(opened):
            return False
        end = content.find(b"\n", len(opened))
        if end < 0 or following is None:
            return end < 0
        opened, content = following.encode(), content[end:]
    return True


def walked(constraint: Constraint, beginnings: Sequence[tuple[int, ...]]) -> ConstraintState:
    """The state behind each beginning."""
    lengths = np.array([len(tokens) for tokens in beginnings])
    tokens_BK = np.zeros((len(beginnings), max(1, lengths.max())), np.int32)
    for row, tokens in zip(tokens_BK, beginnings, strict=True):
        row[: len(tokens)] = tokens
    return form_behind(constraint, tokens_BK, lengths)


@settings(max_examples=4, deadline=None)
@given(
    pieces=st.sets(st.sampled_from(PIECES), min_size=2, max_size=5),
    halves=st.booleans(),
    allowed=st.sampled_from([("Happiness", "Sadness"), ("Happiness",)]),
    room=st.integers(4, 7),
    part_tokens=st.none() | st.tuples(*[st.integers(1, 3)] * 3),
)
def test_what_is_allowed_is_what_can_still_end_in_time(pieces, halves, allowed, room, part_tokens) -> None:
    contents = [piece.encode() for piece in sorted(pieces)]
    if halves:
        contents += [b"\xc3", b"\xa9"]
    toy = ToyTokenizer((*(heading.encode() for heading in OPEN), b"happy", *contents))
    oracle = Oracle(toy.token_bytes(), allowed, room, part_tokens)
    try:
        constraint = compile_constraint("cot", toy, allowed, part_tokens=part_tokens)
    except ExpllmError:
        assert not oracle.next
        return
    if not oracle.next:
        assert int(fewest_tokens(constraint, start(constraint, 1))[0]) > room
        return
    beginnings = sorted(oracle.next, key=lambda tokens: (len(tokens), tokens))[:4000]
    left_B = jnp.array([room - len(tokens) for tokens in beginnings])
    state = walked(constraint, beginnings)
    allowed_BV = np.asarray(allowed_tokens(constraint, state, left_B))
    for tokens, allowed_V in zip(beginnings, allowed_BV, strict=True):
        assert set(np.flatnonzero(allowed_V)) == oracle.next[tokens], tokens
    fewest_B = np.asarray(fewest_tokens(constraint, state))
    assert (fewest_B >= 1).all() and (fewest_B <= np.asarray(left_B)).all()


def test_a_token_that_crosses_two_parts_counts_in_the_last() -> None:
    toy = ToyTokenizer((f"{OPEN[0]}a{OPEN[1]}a{OPEN[2]}happy".encode(), b"sad"))
    assert Oracle(toy.token_bytes(), ("Happiness",), 3, (1, 1, 1)).next == {(): {2}, (2,): {EOS}}
    constraint = compile_constraint("cot", toy, ("Happiness",), part_tokens=(1, 1, 1))
    state = start(constraint, 1)
    assert np.flatnonzero(allowed_tokens(constraint, state, jnp.array([2]))).tolist() == [2]
    state = after(constraint, state, jnp.array([2]))
    assert np.flatnonzero(allowed_tokens(constraint, state, jnp.array([9]))).tolist() == [EOS]


@functools.partial(jax.jit, static_argnames="rows")
def sampled(constraint: Constraint, room: jax.Array, *, rows: int) -> jax.Array:
    """Int [rows, MOST]: tokens drawn evenly among those allowed, as by a model that knows nothing."""
    vocabulary = len(constraint.class_V)

    def one_more(carry: tuple[ConstraintState, jax.Array], made: jax.Array):
        state, key = carry
        key, drawn = jax.random.split(key)
        allowed_BV = allowed_tokens(constraint, state, jnp.full(rows, room - made))
        scores_BV = jnp.where(allowed_BV, jax.random.normal(drawn, (rows, vocabulary)), -jnp.inf)
        token_B = jnp.argmax(scores_BV, -1)
        return (after(constraint, state, token_B), key), token_B

    return jax.lax.scan(one_more, (start(constraint, rows), jax.random.key(0)), jnp.arange(MOST))[1].T


@pytest.fixture(scope="module")
def constraint(tokenizer) -> Constraint:
    return compile_constraint("cot", tokenizer, EXPRESSIONS, part_tokens=PART_TOKENS)


def test_random_answers_parse_whatever_the_room(tokenizer, constraint) -> None:
    fewest = int(fewest_tokens(constraint, start(constraint, 1))[0])
    contents = tokenizer.token_bytes()
    lengths = set()
    for room in (fewest, fewest + 1, MOST):
        for tokens in sampled(constraint, room, rows=32).tolist():
            assert tokenizer.eos in tokens[:room]
            tokens = tokens[: tokens.index(tokenizer.eos)]
            lengths.add(len(tokens))
            text = decode_answer(tokens, tokenizer)
            assert b"".join(contents[token] for token in tokens).decode() == " " + text
            assert parse_cot(text, allowed=EXPRESSIONS) and belongs(text, EXPRESSIONS)
            parts, ends = [0, 0, 0], 0
            for token in tokens:
                ends += contents[token].count(b"\n")
                parts[(ends + 1) // 2] += 1
            assert all(count <= limit for count, limit in zip(parts, PART_TOKENS, strict=True))
    assert min(lengths) == fewest - 1 and max(lengths) > fewest + 20


def test_random_labels_are_labels(own_tokenizer) -> None:
    constraint = compile_constraint("label", own_tokenizer, BASIC_7)
    drawn = sampled(constraint, 14, rows=64)
    assert {parse_label(decode_answer(tokens, own_tokenizer), BASIC_7) for tokens in drawn.tolist()} == set(BASIC_7)


def test_a_texts_own_tokens_are_allowed(tokenizer, constraint) -> None:
    text = (
        f"{HEADINGS[0]} Strong brow lowering (AU4), 3 times; naïve 😀.\n\n{HEADINGS[1]} It hardens the gaze.\n\n"
        f"{HEADINGS[2]} The face shows anger, not more."
    )
    tokens = [*tokenizer.encode(" " + text), tokenizer.eos]
    state = walked(constraint, [tuple(tokens[:end]) for end in range(len(tokens))])
    for left in (400, len(tokens)):
        allowed_BV = np.asarray(allowed_tokens(constraint, state, left - jnp.arange(len(tokens))))
        assert allowed_BV[range(len(tokens)), tokens].all()
    named = next(end for end in range(len(tokens)) if "anger" in tokenizer.decode(tokens[:end]))
    assert not allowed_BV[:named, tokenizer.eos].any()
    assert not allowed_BV[:, [tokenizer.bos, tokenizer.image]].any()


def test_rows_that_are_over_or_lost_or_out_of_room_may_only_end(own_tokenizer) -> None:
    constraint = compile_constraint("label", own_tokenizer, BASIC_7)
    anger = [*own_tokenizer.encode(" Anger"), own_tokenizer.eos]
    unlabelled = own_tokenizer.encode(" Answer")
    state = walked(constraint, [tuple(anger), tuple(unlabelled), ()])
    left_B = jnp.array([9, 9, 1])
    fewest = fewest_tokens(constraint, state).tolist()
    assert fewest[:2] == [0, UNREACHABLE] and 1 < fewest[2] <= len(anger)
    allowed_BV = np.asarray(allowed_tokens(constraint, state, left_B))
    for allowed_V in allowed_BV:
        assert np.flatnonzero(allowed_V).tolist() == [own_tokenizer.eos]


@pytest.mark.parametrize(
    ("task", "part_tokens", "problem"),
    [
        ("cot", (1, 1, 1), "cannot write any answer"),
        ("cot", (100, 100), "part_tokens"),
        ("cot", (100, 0, 100), "part_tokens"),
        ("label", (8, 8), "part_tokens"),
    ],
)
def test_limits_that_leave_no_answer_are_refused(own_tokenizer, task, part_tokens, problem) -> None:
    with pytest.raises(ExpllmError, match=problem):
        compile_constraint(task, own_tokenizer, BASIC_7, part_tokens=part_tokens)


def test_a_tokenizer_without_the_letters_is_refused() -> None:
    with pytest.raises(ExpllmError, match="cannot write any answer"):
        compile_constraint("label", ToyTokenizer((b" ", b"A")), BASIC_7)
