"""The full style: texts of the length and make of the released ones, 84 to 146 words, varied in wording.

First comes what a text must have: every finding, the reading of the whole, the conclusion. Then further true sentences
are added while the text stays within a length drawn for it. A face with many findings gets terser observations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from expllm_jax.cot import band
from expllm_jax.engine.reading import Reading, ShownMovement
from expllm_jax.engine.wording import be, capitalised, count_words, listed, strongest, text_of

MIN_WORDS, MAX_WORDS, MAX_CHARACTERS = 84, 146, 1000
# The released texts have a median of 117 words. Texts end a few words short of their target, hence the higher mean.
_TARGET_MEAN, _TARGET_DEVIATION, _TARGET_LOW, _TARGET_HIGH = 121, 8, 104, 140
# What the necessary sentences may take; beyond it the next terser way of observing is tried.
_CORE_WORDS, _CORE_CHARACTERS = 134, 960
_ONE_BY_ONE_UP_TO = 5  # findings that get a sentence each

_REGION_NAMES = {
    "brows": "the brow area",
    "eyes": "the eye area",
    "nose": "the nose area",
    "cheeks": "the cheek area",
    "mouth": "the mouth area",
    "chin": "the chin area",
    "jaw": "the jaw area",
}

_OPPOSED = frozenset({"lip corner pull", "lip corner depression"})

# Movements that mean more together than apart. They are told where all support the expression,
# and the opposed pair wherever it occurs. Names as in the lexicon; the sentences name no intensity.
_INTERACTIONS: tuple[tuple[frozenset[str], str], ...] = (
    (
        frozenset({"cheek raise", "lip corner pull"}),
        "Cheek raise joined to lip corner pull is what tells a felt smile from a posed one.",
    ),
    (
        frozenset({"inner brow raise", "brow lowering"}),
        "Inner brow raise against brow lowering slants the brows, a shape usually read as distress.",
    ),
    (
        frozenset({"inner brow raise", "outer brow raise"}),
        "Inner and outer brow raise together lift the whole brow, as when attention is caught.",
    ),
    (
        frozenset({"brow lowering", "lid tightening"}),
        "Brow lowering and lid tightening reinforce each other and harden the gaze.",
    ),
    (
        frozenset({"nose wrinkling", "upper lip raise"}),
        "Nose wrinkling and upper lip raise act together to close the face off from something unpleasant.",
    ),
    (
        frozenset({"lip corner depression", "chin raise"}),
        "Lip corner depression and chin raise push the mouth into a downward arc.",
    ),
    (
        frozenset({"lid raise", "jaw drop"}),
        "Lid raise with jaw drop opens the face in its upper and lower half at once.",
    ),
    (
        frozenset({"lid raise", "mouth stretch"}),
        "Lid raise with mouth stretch opens the face in its upper and lower half at once.",
    ),
    (
        frozenset({"lid raise", "brow raise"}),
        "Lid raise and brow raise work in the same direction and widen the gaze.",
    ),
    (
        _OPPOSED,
        "Lip corner pull and lip corner depression work against each other, which makes the mouth ambiguous.",
    ),
    (
        frozenset({"lip stretch", "brow lowering"}),
        "Lip stretch under brow lowering adds tension to both halves of the face.",
    ),
)

_GENERAL = (
    "Taken one at a time such movements stay ambiguous, so they are read together.",
    "People differ in how they show what they feel, so this describes what is visible.",
    "Intensity is judged against the same face at rest.",
    "Upper and lower face are given the same weight in this reading.",
)


class _Extra(NamedTuple):
    part: int  # 0 observations, 1 interpretation, 2 conclusion
    order: int  # where it stands among the sentences of its part
    sentence: str


def write_full(reading: Reading, rng: np.random.Generator, *, quote_codes: bool) -> str:
    """The full text of a face.

    Args:
        quote_codes: whether units may carry their code; about every second text then does.
    """
    say = _Chooser(rng)
    target = int(np.clip(round(rng.normal(_TARGET_MEAN, _TARGET_DEVIATION)), _TARGET_LOW, _TARGET_HIGH))
    quote_codes = quote_codes and say.coin()
    interpretation, conclusion = [_core_interpretation(reading, say)], [_conclusion(reading, say)]
    for observations in _ways_to_observe(reading, say, quote_codes):
        text = text_of((observations, interpretation, conclusion))
        if count_words(text) <= _CORE_WORDS and len(text) <= _CORE_CHARACTERS:
            break
    core = (observations, interpretation, conclusion)
    chosen: list[_Extra] = []
    for extra in _extras(reading, say):
        longer = _with_extras(core, [*chosen, extra])
        if count_words(longer) <= target and len(longer) <= MAX_CHARACTERS:
            chosen.append(extra)
            text = longer
    return text


def _with_extras(core: Sequence[Sequence[str]], extras: Sequence[_Extra]) -> str:
    ordered = sorted(extras, key=lambda extra: extra.order)
    return text_of([[*core[part], *(e.sentence for e in ordered if e.part == part)] for part in range(3)])


class _Chooser:
    """Draws among wordings."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def one(self, *options: str) -> str:
        return options[int(self._rng.integers(len(options)))]

    def coin(self) -> bool:
        return bool(self._rng.integers(2))

    def shuffled(self, items: Sequence[str]) -> list[str]:
        return [items[position] for position in self._rng.permutation(len(items))]


def _ways_to_observe(reading: Reading, say: _Chooser, quote_codes: bool) -> Iterator[list[str]]:
    """Sentences that state every finding, from the most to the least wordy way of saying it."""
    findings = reading.findings
    if not findings:
        yield [
            say.one(
                "The face shows no clear movement in any region.",
                "No region of the face shows a clear movement.",
                "There is no clear movement anywhere in the face.",
            )
        ]
        return
    if len(findings) <= _ONE_BY_ONE_UP_TO:
        yield [_alone(finding, reading.expression, say, quote_codes) for finding in findings]
    groups = [[f for f in findings if f.region == region] for region in dict.fromkeys(f.region for f in findings)]
    yield [_grouped(group, reading.expression, say, quote_codes, associate=True) for group in groups]
    yield [_grouped(group, reading.expression, say, False, associate=False) for group in groups]
    terse = [_noun_phrase(f, min(band(f.band).adjectives, key=len), f.name, False) for f in findings]
    yield [f"From top to bottom, the face shows {listed(terse)}."]


def _noun_phrase(finding: ShownMovement, adjective: str, noun: str, quote_codes: bool) -> str:
    side = "" if finding.side == "both" else f"{finding.side} "
    return f"{adjective} {side}{noun}{_code(finding, quote_codes)}"


def _code(finding: ShownMovement, quote_codes: bool) -> str:
    return f" ({finding.codes[0]})" if quote_codes else ""


def _varied(finding: ShownMovement, say: _Chooser, quote_codes: bool) -> str:
    noun = finding.name if finding.side != "both" else say.one(*finding.movement.nouns)
    return _noun_phrase(finding, say.one(*band(finding.band).adjectives), noun, quote_codes)


def _alone(finding: ShownMovement, expression: str, say: _Chooser, quote_codes: bool) -> str:
    """A sentence about one finding and what it is associated with."""
    tail = _association(finding.associated, expression, say, plural=False)
    if finding.side == "both" and finding.movement.states and say.coin():
        part, participle = finding.movement.states[0]
        adverb = say.one(*band(finding.band).adverbs)
        return f"The {part} {be(part)} {adverb} {participle}{_code(finding, quote_codes)}{tail}."
    phrase = _varied(finding, say, quote_codes)
    return say.one(f"{capitalised(_REGION_NAMES[finding.region])} shows {phrase}{tail}.", f"There is {phrase}{tail}.")


def _grouped(
    group: Sequence[ShownMovement], expression: str, say: _Chooser, quote_codes: bool, *, associate: bool
) -> str:
    """A sentence about all findings of one region, and the expressions they share."""
    phrases = listed([_varied(finding, say, quote_codes) for finding in group])
    shared = [e for e in group[0].associated if all(e in finding.associated for finding in group)]
    tail = _association(shared, expression, say, plural=len(group) > 1) if associate and shared else ""
    region = _REGION_NAMES[group[0].region]
    return say.one(f"{capitalised(region)} shows {phrases}{tail}.", f"In {region}, there is {phrases}{tail}.")


def _association(expressions: Sequence[str], expression: str, say: _Chooser, *, plural: bool) -> str:
    """What movements are associated with: at most two expressions, that of the face first if it is among them."""
    if not expressions:
        return ", which alone points to no single expression"
    ordered = sorted(expressions, key=lambda candidate: candidate != expression)  # stable: the rest keeps its order
    names = listed([_label(candidate) for candidate in ordered[:2]], "or")
    if plural:
        return say.one(f", movements associated with {names}", f", which are often seen in {names}")
    return say.one(f", often associated with {names}", f", a common sign of {names}", f", which can point to {names}")


def _label(expression: str) -> str:
    return "a neutral expression" if expression == "Neutral" else expression.lower()


def _core_interpretation(reading: Reading, say: _Chooser) -> str:
    label = _label(reading.expression)
    if not reading.findings:
        if reading.expression == "Neutral":
            return say.one(
                "With every region close to rest, the face carries no particular emotional signal.",
                "Since nothing moves clearly, the face as a whole signals no particular emotion.",
            )
        return say.one(
            f"Whatever points to {label} stays below what can be named, so the impression is faint.",
            f"The impression of {label} is faint and rests on no single movement.",
        )
    if reading.expression == "Neutral":
        name = strongest(reading.findings, 1)[0].name
        return say.one(
            f"A neutral face stays close to rest, and the {name} departs from that.",
            f"The {name} departs from a face at rest, so the neutral impression is not a pure one.",
        )
    names = [finding.name for finding in strongest(reading.fitting, 4)]
    if not names:
        return say.one(
            f"None of these movements belongs to the usual pattern of {label}, so the reading stays uncertain.",
            f"The usual pattern of {label} is not present, so the reading stays uncertain.",
        )
    if len(names) == 1:
        return say.one(
            f"The {names[0]} is the movement that points to {label}.",
            f"Of what is visible, the {names[0]} is in keeping with {label}.",
        )
    return say.one(
        f"Together, {listed(names)} form a pattern associated with {label}.",
        f"The combination of {listed(names)} is in keeping with {label}.",
        f"Seen jointly, {listed(names)} speak for {label}.",
    )


def _conclusion(reading: Reading, say: _Chooser) -> str:
    """One sentence that names the expression, and no other sentence of the conclusion does."""
    if reading.expression == "Neutral":
        return say.one(
            "Overall, this is best described as a neutral expression.",
            "In summary, the overall impression is neutral.",
            "The face as a whole is therefore read as neutral.",
        )
    label = _label(reading.expression)
    return say.one(
        f"Overall, this is best described as {label}.",
        f"In summary, the overall impression is one of {label}.",
        f"The face as a whole is therefore read as {label}.",
        f"Weighing all of this, the conclusion is {label}.",
    )


def _extras(reading: Reading, say: _Chooser) -> Iterator[_Extra]:
    """Further true sentences, the most telling first."""
    label = _label(reading.expression)
    names = {finding.name for finding in reading.findings}
    told = strongest(reading.findings, 1)[:1] if reading.expression == "Neutral" else []
    contrasts = [finding for finding in strongest(reading.unusual, 3) if finding not in told]
    supporting = {finding.name for finding in reading.fitting}
    interactions = [
        sentence for together, sentence in _INTERACTIONS if together <= supporting or together == _OPPOSED <= names
    ]
    for sentence in interactions[:1]:
        yield _Extra(1, 0, sentence)
    for finding in contrasts[:1]:
        yield _Extra(1, 1, _contrast(finding, label, say))
    for name, _ in reading.missing[:1]:
        yield _Extra(0, 0, say.one(f"No clear {name} is visible.", f"There is no clear {name}."))
    if reading.resting:
        areas = listed([f"the {region}" for region in reading.resting])
        verb = "stays" if len(reading.resting) == 1 and be(reading.resting[0]) == "is" else "stay"
        yield _Extra(0, 1, f"{capitalised(areas)} {verb} close to rest.")
    if supporting:
        evidence = [finding.name for finding in strongest(reading.fitting, 2)]
        yield _Extra(2, 0, say.one("The main evidence is", "This rests mainly on") + f" {listed(evidence)}.")
    elif not reading.findings:
        yield _Extra(2, 0, say.one("This rests on the stillness of the face.", "The stillness of the face decides."))
    if reading.findings:
        top = strongest(reading.findings, 1)[0]
        yield _Extra(1, 2, f"The strongest signal comes from the {top.region}, where the {top.name} stands out.")
    for sentence in interactions[1:2]:
        yield _Extra(1, 0, sentence)
    for finding in contrasts[1:3]:
        yield _Extra(1, 1, _contrast(finding, label, say))
    for name, _ in reading.missing[1:2]:
        yield _Extra(1, 3, f"A fuller picture of {label} would also include {name}.")
    for position, sentence in enumerate(say.shuffled(_GENERAL)):
        yield _Extra(1, 4 + position, sentence)


def _contrast(finding: ShownMovement, label: str, say: _Chooser) -> str:
    if not finding.associated:
        return f"The {finding.name} is tied to no single expression and leaves the reading open."
    others = listed([_label(expression) for expression in finding.associated[:2]], "or")
    return say.one(
        f"In contrast, the {finding.name} is more often linked to {others}, which hints at a blend.",
        f"The {finding.name} does not belong to the usual picture of {label} and rather suggests {others}.",
    )
