"""The full style: texts of the length and make of the released ones, 84 to 146 words, varied in wording.

First comes what a text must have: every finding, the reading of the whole, the conclusion. Then further true sentences
are added while the text stays within a length drawn for it. A face with many findings gets terser observations.
The sentences stand in ``engine.full_sentences``; here is what may be said of which face.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from expllm_jax.cot import EXPRESSION_WORDS, band, write_parts
from expllm_jax.engine import full_sentences as table
from expllm_jax.engine.naming import Named, nouns, phrases, states
from expllm_jax.engine.phrasing import Chooser
from expllm_jax.engine.reading import Reading, ShownMovement
from expllm_jax.engine.wording import an, be, capitalised, count_words, listed, strongest

MIN_WORDS, MAX_WORDS, MAX_CHARACTERS = 84, 146, 1000
# The released texts have a median of 117 words. Texts end a few words short of their target, hence the higher mean.
_TARGET_MEAN, _TARGET_DEVIATION, _TARGET_LOW, _TARGET_HIGH = 120, 8, 104, 140
# What the necessary sentences may take; beyond it the next terser way of observing is tried.
_CORE_WORDS, _CORE_CHARACTERS = 134, 960
_ONE_BY_ONE_UP_TO = 5  # findings that get a sentence each
_SHORTEST_EXTRA = 4  # words

# How often something is worded one way rather than another.
_GROUPED_ANYWAY = 0.3
_WITH_OPENER = 0.3
_AS_STATE = 0.45
_TWO_LABELS = 0.6
_POINTED_AT = 0.35
_REST_AS_ONE = 0.3
_RESTING_NAMED = 4  # regions at most
_STRONGEST_FIRST = 0.4

_HEADING_WORDS, _HEADING_CHARACTERS = count_words(write_parts("", "", "")), len(write_parts("", "", ""))

_PARTS_OF_FACE = {
    "brows": "upper",
    "eyes": "upper",
    "nose": "middle",
    "cheeks": "middle",
    "mouth": "lower",
    "chin": "lower",
    "jaw": "lower",
}
_LABELS = {
    name: (noun, noun, f"an expression of {noun}", f"{an(adjective)} expression")
    for name, (noun, adjective) in EXPRESSION_WORDS.items()
} | {"Neutral": ("a neutral expression", "a neutral expression", "a neutral face")}


class _Extra(NamedTuple):
    part: int  # 0 observations, 1 interpretation, 2 conclusion
    order: float  # where it stands among the sentences of its part; those a text must have stand at 0
    sentence: str


_BEFORE, _AFTER, _LATER, _LAST = -1.0, 1.0, 2.0, 3.0


def write_full(reading: Reading, rng: np.random.Generator, *, quote_codes: bool) -> str:
    """The full text of a face.

    Args:
        quote_codes: whether units may carry their code; about every second text then does.
    """
    return _Writer(reading, Chooser(rng), quote_codes).text(rng)


class _Writer:
    """Writes the text of one face."""

    def __init__(self, reading: Reading, say: Chooser, quote_codes: bool) -> None:
        self.reading, self.say = reading, say
        self.quote_codes = quote_codes and say.happens(0.5)
        self.fitting, self.unusual = reading.fitting, reading.unusual
        self.used: set[str] = set()
        found = [finding.name for finding in reading.findings]
        # Told apart in both parts of the text: a movement of which only one side is stated carries its side.
        self.one_sided = {f.name for f in reading.findings if f.side != "both" and found.count(f.name) == 1}

    def text(self, rng: np.random.Generator) -> str:
        target = int(np.clip(round(rng.normal(_TARGET_MEAN, _TARGET_DEVIATION)), _TARGET_LOW, _TARGET_HIGH))
        core = self._core()
        words, characters = _size(core)
        for extra in self._extras():
            more, longer = words + count_words(extra.sentence), characters + len(extra.sentence) + 1
            if more <= target and longer <= MAX_CHARACTERS:
                core.append(extra)
                words, characters = more, longer
            if words + _SHORTEST_EXTRA > target:
                break
        core.sort(key=lambda extra: extra.order)  # stable: of the same order, the more telling first
        return write_parts(*(" ".join(extra.sentence for extra in core if extra.part == part) for part in range(3)))

    def _core(self) -> list[_Extra]:
        """What the text must have, in the wordiest way that leaves it room."""
        interpretation, conclusion = self._interpretation(), self._conclusion()
        for observations in self._ways_to_observe():
            said = [*(_Extra(0, 0, o) for o in observations), _Extra(1, 0, interpretation), _Extra(2, 0, conclusion)]
            words, characters = _size(said)
            if words <= _CORE_WORDS and characters <= _CORE_CHARACTERS:
                break
        return said

    def _say(self, sentences: Sequence[str], **gaps: str) -> str:
        """One of the sentences, as a sentence."""
        return capitalised(self.say.say(self.say.one(sentences), **gaps)) + "."

    # ---- observations

    def _ways_to_observe(self) -> Iterator[list[str]]:
        """Sentences that state every finding, from the most to the least wordy way of saying it."""
        findings = self.reading.findings
        if not findings:
            yield [self._say(table.NOTHING)]
            return
        if len(findings) == 1 or (len(findings) <= _ONE_BY_ONE_UP_TO and not self.say.happens(_GROUPED_ANYWAY)):
            yield self._joined([self._alone(finding) for finding in findings], [f.region for f in findings])
        regions = list(dict.fromkeys(finding.region for finding in findings))
        groups = [[finding for finding in findings if finding.region == region] for region in regions]
        yield self._joined([self._grouped(group) for group in groups], regions)
        self.quote_codes = False
        yield [f"{capitalised(self._group(group, ''))}." for group in groups]
        terse = [f"{min(band(f.band).adjectives, key=len)} {_sided_name(f)}" for f in findings]
        yield [f"From top to bottom, the face shows {listed(terse)}."]

    def _joined(self, statements: Sequence[str], regions: Sequence[str]) -> list[str]:
        """Statements as sentences, some of them opened with a word that leads on from the one before."""
        said = []
        for position, statement in enumerate(statements):
            if position and not statement.startswith(("in ", "within ", "around ")) and self.say.happens(_WITH_OPENER):
                lower = regions[position] != regions[position - 1] and self.say.happens(0.5)
                statement = f"{self.say.one(table.OPENERS_BELOW if lower else table.OPENERS)}, {statement}"
            said.append(f"{capitalised(statement)}.")
        return said

    def _alone(self, finding: ShownMovement) -> str:
        """A statement of one finding and of what it is associated with."""
        say = self.say
        labels = self._labels(finding.associated)
        gaps = {
            "labels": labels,
            "region": say.one(table.REGION_NAMES[finding.region]),
            "tail": say.say(say.one(table.TAIL_ONE if labels else table.TAIL_NONE), labels=labels),
            "verdict": say.say(say.one(table.VERDICT_ONE if labels else table.VERDICT_NONE), labels=labels),
        }
        of_state = states(finding.name, finding.side, finding.band)
        if of_state and say.happens(_AS_STATE):
            sentences = table.ALONE_STATE if labels else table.ALONE_STATE_OPEN
            return say.say(self._frame(sentences), state=self._coded(finding, say.one(of_state)), **gaps)
        phrase = say.one(phrases(finding.name, finding.side, finding.band, alone=True))
        gaps |= {"is": "are", "s": ""} if phrase.plural else {"is": "is", "s": "s"}
        sentences = table.ALONE_NOUN if labels else table.ALONE_NOUN_OPEN
        return say.say(self._frame(sentences), phrase=self._coded(finding, phrase), **gaps)

    def _frame(self, sentences: Sequence[str]) -> str:
        """One of the sentences, none that this text has used already as long as there are others."""
        fresh = [sentence for sentence in sentences if sentence not in self.used] or sentences
        self.used.add(frame := self.say.one(fresh))
        return frame

    def _grouped(self, group: Sequence[ShownMovement]) -> str:
        """A statement of all findings of one region, and of the expressions they share."""
        if len(group) == 1:
            return self._alone(group[0])
        shared = [e for e in group[0].associated if all(e in finding.associated for finding in group)]
        tail = self.say.say(self.say.one(table.TAIL_SEVERAL), labels=self._labels(shared)) if shared else ""
        return self._group(group, tail)

    def _group(self, group: Sequence[ShownMovement], tail: str) -> str:
        say = self.say
        found = [self._coded(f, say.one(phrases(f.name, f.side, f.band, alone=False))) for f in group]
        region = say.one(table.REGION_NAMES[group[0].region])
        sentences = table.GROUPED if len(group) > 1 else table.GROUPED[:-1]
        return say.say(say.one(sentences), region=region, phrases=listed(found), tail=tail)

    def _coded(self, finding: ShownMovement, phrase: Named) -> str:
        code = f" ({finding.codes[0]})" if self.quote_codes else ""
        return f"{phrase.words}{code}{phrase.degree}"

    def _labels(self, expressions: Sequence[str]) -> str:
        """One or two of the expressions, that of the face first if it is among them; "" if there are none."""
        ordered = sorted(expressions, key=lambda name: name != self.reading.expression)  # stable: the rest as it was
        named = ordered[:1]
        if len(ordered) > 1 and self.say.happens(_TWO_LABELS):
            named.append(self.say.one(ordered[1:]))
        return listed([_LABELS[name][0] for name in named], "or")

    # ---- interpretation and conclusion

    def _name(self, finding: ShownMovement) -> str:
        """A movement that was observed, "the lowering of the left brow"."""
        return f"the {self.say.one(nouns(finding.name, finding.side if finding.name in self.one_sided else 'both'))}"

    def _names(self, findings: Sequence[ShownMovement]) -> str:
        """Several of them; one by itself may be pointed at instead, "this lowering of the left brow"."""
        names = self.say.shuffled([self._name(finding) for finding in findings])
        if len(names) == 1 and self.say.happens(_POINTED_AT):
            return names[0].replace("the", self.say.one(table.POINTERS), 1)
        return listed(names)

    def _label(self) -> str:
        return self.say.one(_LABELS[self.reading.expression])

    def _interpretation(self) -> str:
        findings, neutral = self.reading.findings, self.reading.expression == "Neutral"
        if not findings:
            return self._say(table.NEUTRAL_STILL if neutral else table.SUPPORT_STILL, label=self._label())
        if neutral:
            return self._say(table.NEUTRAL_MOVED, names=self._names(strongest(findings, 1)))
        telling = strongest(self.fitting, 4)
        kinds = (table.SUPPORT_NONE, table.SUPPORT_ONE, table.SUPPORT_SEVERAL)
        return self._say(kinds[min(len(telling), 2)], names=self._names(telling), label=self._label())

    def _conclusion(self) -> str:
        """One sentence that names the expression, and no other sentence of the conclusion does."""
        if self.reading.expression == "Neutral":
            return self._say(table.CONCLUSION_NEUTRAL, label=_LABELS["Neutral"][0])
        noun = EXPRESSION_WORDS[self.reading.expression][0]
        sentences = table.CONCLUSION if self.reading.findings else table.CONCLUSION_STILL
        return self._say(sentences, label=self._label(), noun=noun)

    # ---- what else is true

    def _extras(self) -> Iterator[_Extra]:
        """Further true sentences: the most telling first, and of those that matter less any first."""
        say, reading = self.say, self.reading
        told = strongest(reading.findings, 1) if reading.expression == "Neutral" else []
        contrasts = [finding for finding in strongest(self.unusual, 3) if finding not in told]
        interplay = say.shuffled(self._interplay())
        around = _BEFORE if say.happens(0.5) else _AFTER
        for sentences in interplay[:1]:
            yield _Extra(1, around, self._say(sentences))
        for finding in contrasts[:1]:
            yield _Extra(1, _AFTER, self._contrast(finding))
        for name, _ in reading.missing[:1]:
            yield _Extra(0, _AFTER, self._say(table.MISSING, noun=say.one(nouns(name, "both"))))
        resting = self._resting_regions()
        if resting:
            yield _Extra(0, _AFTER, self._resting(resting))
        if self.fitting and reading.findings:
            telling = strongest(self.fitting, 2)
            ending = "" if len(telling) > 1 else "s"
            yield _Extra(2, _AFTER, self._say(table.EVIDENCE, names=self._names(telling), s=ending))
        elif not reading.findings:
            yield _Extra(2, _AFTER, self._say(table.EVIDENCE_STILL))
        yield from say.shuffled(
            [
                *self._weighing(),
                *(_Extra(1, -around, self._say(sentences)) for sentences in interplay[1:2]),
                *(_Extra(1, _AFTER, self._contrast(finding)) for finding in contrasts[1:3]),
            ]
        )
        general = say.shuffled([*table.GENERAL, *(table.GENERAL_MOVED if reading.findings else ())])
        for sentence in general:
            yield _Extra(1, _LAST, self._say((sentence,)))

    def _weighing(self) -> Iterator[_Extra]:
        """Sentences about the whole of the face."""
        say, reading = self.say, self.reading
        if not reading.findings:
            return
        top = strongest(reading.findings, 1)[0]
        order = _BEFORE if say.happens(_STRONGEST_FIRST) else _LATER
        area = say.one(table.REGION_NAMES[top.region])
        yield _Extra(1, order, self._say(table.STRONGEST, area=area, names=self._names([top])))
        halves = [_PARTS_OF_FACE[finding.region] for finding in reading.findings]
        one = say.one(reading.findings)
        area = say.one(table.REGION_NAMES[one.region])
        if one != top:
            yield _Extra(1, _LATER, self._say(table.ALONE_IT_WOULD, area=area, names=self._names([one])))
        elsewhere = [finding for finding in self.fitting if finding.region != one.region]
        if elsewhere and one in self.fitting:
            other = say.one(elsewhere)
            gaps = {"other": say.one(table.REGION_NAMES[other.region]), "second": self._name(other)}
            yield _Extra(1, _AFTER, self._say(table.BOTH, area=area, names=self._name(one), **gaps))
        for half in ("upper", "middle", "lower"):
            if len(halves) > 1 and 2 * halves.count(half) > len(halves):
                yield _Extra(1, _BEFORE, self._say(table.WHERE, half=half))
        if any(finding.side != "both" for finding in reading.findings):
            yield _Extra(1, _LATER, self._say(table.ASYMMETRIC))
        elif any(len(finding.codes) > 1 for finding in reading.findings):
            yield _Extra(1, _LATER, self._say(table.SYMMETRIC))
        for name, _ in reading.missing[1:2]:
            noun = say.one(nouns(name, "both"))
            yield _Extra(1, _LATER, self._say(table.FULLER, label=self._label(), noun=noun))
        if self.unusual and self.fitting:
            yield _Extra(2, _LATER, self._say(table.CERTAINTY_MIXED))
        elif len(self.fitting) > 1 and not reading.missing:
            yield _Extra(2, _LATER, self._say(table.CERTAINTY_HIGH))

    def _interplay(self) -> list[tuple[str, ...]]:
        """What pairs of movements mean: told where both support the expression; of the opposed pair, wherever it is."""
        whole = {finding.name for finding in self.reading.findings} - self.one_sided
        supporting = whole & {finding.name for finding in self.fitting}
        told = [sentences for together, sentences in table.INTERPLAY if together <= supporting]
        return [*told, table.OPPOSED_SENTENCES] if table.OPPOSED <= whole else told

    def _contrast(self, finding: ShownMovement) -> str:
        if not finding.associated:
            return self._say(table.CONTRAST_OPEN, names=self._names([finding]))
        others = listed([_LABELS[name][0] for name in finding.associated[:2]], "or")
        return self._say(table.CONTRAST_ELSEWHERE, names=self._names([finding]), others=others, label=self._label())

    def _resting_regions(self) -> list[str]:
        """Regions to be called at rest: none where all are, which is told already, nor a mouth that the jaw opens."""
        moved = {finding.region for finding in self.reading.findings}
        return [r for r in self.reading.resting if moved and not (r == "mouth" and "jaw" in moved)]

    def _resting(self, resting: Sequence[str]) -> str:
        moved = {finding.region for finding in self.reading.findings}
        if len(resting) + len(moved) == len(_PARTS_OF_FACE) and self.say.happens(_REST_AS_ONE):
            return self._say(table.REST_OF_THE_FACE_RESTING, areas=self.say.one(table.REST_OF_THE_FACE), s="s")
        start = self.say.below(len(resting))
        named = resting[start : start + 1 + self.say.below(_RESTING_NAMED)]
        single = len(named) == 1 and be(named[0]) == "is"
        areas = listed([f"the {region}" for region in named])
        return self._say(table.RESTING, areas=areas, **({"s": "s", "is": "is"} if single else {"s": "", "is": "are"}))


def _sided_name(finding: ShownMovement) -> str:
    return finding.name if finding.side == "both" else f"{finding.side} {finding.name}"


def _size(said: Sequence[_Extra]) -> tuple[int, int]:
    """Words and characters of the text that sentences make."""
    words = _HEADING_WORDS + sum(count_words(extra.sentence) for extra in said)
    gaps = len(said) - len({extra.part for extra in said})
    return words, _HEADING_CHARACTERS + gaps + sum(len(extra.sentence) for extra in said)
