"""Edited observations."""

from __future__ import annotations

import numpy as np
import pytest

from expllm_jax.cot import parse_cot, write_parts
from expllm_jax.engine import NarratorConfig, narrate
from expllm_jax.evaluate.interventions import TextEditor, named_units, observation_items
from expllm_jax.faces import BASIC_7
from expllm_jax.sources.rendered import sample_units


def fear(observations: str) -> str:
    return write_parts(observations, "Typical of fear: AU1, AU5.", "This face shows fear.")


FEAR = fear("strong inner brow raise (AU1), moderate lid raise (AU5), slight jaw drop (AU26). No other clear movement.")
JOY = write_parts("strong cheek raise (AU6), strong lip corner pull (AU12).", "Typical.", "This face shows happiness.")


def editor(*texts: str) -> TextEditor:
    return TextEditor([(text, parse_cot(text)) for text in texts])


def edits(text: str, *others: str, seed: int = 0) -> dict:
    """Edit → its result."""
    found = editor(text, *others).edits(text, parse_cot(text), np.random.default_rng(seed))
    return {edited.edit: edited for edited in found}


def observations(begun: str) -> str:
    assert begun.startswith("**Key Observations:** ") and begun.endswith("\n\n")
    return begun.removeprefix("**Key Observations:** ").removesuffix("\n\n")


def test_items_are_what_stands_between_commas():
    items = observation_items(FEAR, parse_cot(FEAR))
    assert [FEAR[item.start : item.end] for item in items] == [
        "strong inner brow raise (AU1)", "moderate lid raise (AU5)", "slight jaw drop (AU26)"
    ]  # fmt: skip


def test_a_sentence_that_states_one_movement_is_an_item_as_a_whole():
    text = fear("The brows, as one can see, are strongly lowered (AU4), which is rare. There is a slight jaw drop.")
    assert [text[item.start : item.end] for item in observation_items(text, parse_cot(text))] == [
        "The brows, as one can see, are strongly lowered (AU4), which is rare", "There is a slight jaw drop"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "words",
    ["no lid raise, and no jaw drop.", "strong jaw drop (AU26). The jaw drop (AU26) is strong."],
    ids=["denied", "twice"],
)
def test_what_is_denied_or_said_twice_is_no_item(words):
    assert observation_items(fear(words), parse_cot(fear(words))) == ()


def test_every_edit_does_what_its_name_says():
    found = edits(FEAR, JOY)
    assert list(found) == ["delete", "swap", "band", "reorder", "transplant"]
    end = ". No other clear movement."
    items = ["strong inner brow raise (AU1)", "moderate lid raise (AU5)", "slight jaw drop (AU26)"]
    place = {"AU1": 0, "AU5": 1, "AU26": 2}

    def without(code: str, *instead: str) -> str:
        at = place[code]
        return ", ".join([*items[:at], *instead, *items[at + 1 :]]) + end

    assert observations(found["delete"].begun) == without(found["delete"].code)
    swap = found["swap"]
    name = {"AU6": "cheek raise (AU6)", "AU12": "lip corner pull (AU12)"}[swap.instead]
    band = items[place[swap.code]].split()[0]
    assert observations(swap.begun) == without(swap.code, f"{band} {name}")
    band = found["band"]
    was = items[place[band.code]]
    now = was.replace("strong", "slight") if "strong" in was else was.replace(was.split()[0], "strong")
    assert observations(band.begun) == without(band.code, now)
    first = place[found["reorder"].code]
    moved = items.copy()
    moved[first : first + 2] = items[first + 1], items[first]
    assert observations(found["reorder"].begun) == ", ".join(moved) + end
    assert observations(found["transplant"].begun) == "strong cheek raise (AU6), strong lip corner pull (AU12)."
    assert found["transplant"].instead == "Happiness"


def test_the_last_sentence_goes_with_its_full_stop():
    text = fear("The brows are strongly lowered (AU4). There is a slight jaw drop.")
    left = {observations(edits(text, seed=seed)["delete"].begun) for seed in range(8)}
    assert left == {"The brows are strongly lowered (AU4).", "There is a slight jaw drop."}


def test_an_article_fits_the_new_word():
    text = fear("There is an intense jaw drop.")
    assert observations(edits(text)["band"].begun) == "There is a slight jaw drop."


def test_the_only_observation_is_neither_deleted_nor_reordered():
    assert list(edits(fear("strong jaw drop (AU26)."))) == ["band"]


@pytest.mark.parametrize("style", ["brief", "full"])
def test_edited_texts_state_what_they_are_to_state(style):
    texts = []
    for number in range(70):
        rng = np.random.default_rng(number)
        expression = BASIC_7[number % 7]
        units = sample_units(expression, "hard", rng)
        texts.append(narrate(expression, units, NarratorConfig("facs", style), rng))
    parsed = [parse_cot(text) for text in texts]
    made = TextEditor(list(zip(texts, parsed, strict=True)))
    counts = dict.fromkeys(("delete", "swap", "band", "reorder", "transplant"), 0)
    for number, (text, before) in enumerate(zip(texts, parsed, strict=True)):
        stated = {s.code: s.band for s in before.observations if not s.negated}
        for edited in made.edits(text, before, np.random.default_rng(number)):
            counts[edited.edit] += 1
            whole = edited.begun + text.split("\n\n", 1)[1]
            after = {s.code: s.band for s in parse_cot(whole).observations if not s.negated}
            if edited.edit == "delete":
                assert after == {code: band for code, band in stated.items() if code != edited.code}
            elif edited.edit == "swap":
                assert set(after) == set(stated) - {edited.code} | {edited.instead}
                assert after[edited.instead] == stated[edited.code]
            elif edited.edit == "band":
                assert after == stated | {edited.code: after[edited.code]} != stated
            elif edited.edit == "reorder":
                assert after == stated and edited.begun not in text
    assert min(counts.values()) > 40, counts


def test_the_units_that_an_interpretation_argues_with():
    assert named_units(parse_cot(FEAR)) == {"AU1", "AU5"}
    text = write_parts(
        "strong jaw drop (AU26).", "The jaw drop speaks for fear; no lid raise.", "This face shows fear."
    )
    assert named_units(parse_cot(text)) == {"AU26"}
