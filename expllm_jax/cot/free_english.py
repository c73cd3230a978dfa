"""Words that people and language models use of faces in texts of their own: what kind of word each is.

The lexicon holds whole phrases, which texts are written with. Here are single words, which ``free_statements`` puts
together: a part of the face ("eyelids") and what it does ("elevated"). Words that are not here mean nothing to it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from expllm_jax.cot.bands import BAND_WORDS, band_of_word
from expllm_jax.faces import FACS, FEAFA_24

PARTS: Mapping[str, str] = MappingProxyType(
    {
        form: part
        for part, forms in {
            "brow": "brow brows eyebrow eyebrows",
            "lid": "lid lids eyelid eyelids",
            "eye": "eye eyes",
            "corner": "corner corners",
            "lip": "lip lips",
            "mouth": "mouth",
            "jaw": "jaw jaws",
            "chin": "chin",
            "cheek": "cheek cheeks",
            "nose": "nose",
            "nostril": "nostril nostrils",
        }.items()
        for form in forms.split()
    }
)
"""Word -> part of the face. "lip" becomes "upper lip" or "lower lip" after those words, "brow" "inner brow"."""

MOTIONS: Mapping[str, str] = MappingProxyType(
    {
        form: motion
        for motion, forms in {
            "up": "raise raised raises raising elevate elevated elevates elevating elevation elevations lift lifted"
            " lifts lifting uplift uplifted uplifting upward upwards upwardly upturn upturned upturning arched arching"
            " arch",
            "down": "down lowered lowering lowers furrowed furrowing furrow knitted knit downward downwards downwardly"
            "downturned downturn drooping droop drooped depressed depression depress depresses drop dropped"
            " dropping drops drawn-down lowerings",
            "close": "close closed closes closing closure closures shut",
            "squint": "squint squinting squinted squints narrowed narrowing narrow",
            "wide": "widen widened widens widening wide wide-open wide-eyed",
            "stretch": "stretch stretched stretches stretching",
            "pull": "pull pulled pulls pulling curl curled curls curling",
            "pucker": "pucker puckered puckers puckering purse pursed purses pursing pout pouting",
            "suck": "suck sucked sucking suction",
            "puff": "puff puffed puffs puffing puffiness",
            "wrinkle": "wrinkle wrinkled wrinkles wrinkling scrunch scrunched scrunching",
            "thrust": "thrust thrusts thrusting forward protrusion protruding protruded",
            "press": "press pressed presses pressing",
            "tighten": "tighten tightened tightens tightening",
            "part": "parted parting",
            "funnel": "funnel funneled funneling",
            "bite": "bite bitten biting bites",
            "flare": "flare flared flares flaring dilated",
            "tuck": "tucked tucking dimpled dimpling",
            "slide": "slide slides sliding lateral laterally sideways leftward rightward",
        }.items()
        for form in forms.split()
    }
)
"""Word -> what a part does."""

BANDS_OF_WORDS: Mapping[str, str] = MappingProxyType(
    {word: str(band_of_word(word)) for word in BAND_WORDS if not word.startswith("noticeabl")}
    | dict.fromkeys("prominent prominently considerable considerably substantial substantially".split(), "significant")
    | dict.fromkeys("extreme extremely intensive".split(), "strong")
    | dict.fromkeys("faint faintly".split(), "slight")
)
"""Intensity word -> band: the lexicon's, and those that free texts use beside them. "Noticeable" they say of any."""

NEGATORS = frozenset(
    "no not without lack lacks lacking absence absent neither nor never cannot isn't aren't don't doesn't"
    " devoid free fails".split()
)

SEEN = frozenset("present visible seen observed evident active there detected noted noticeable".split())
"""What a unit is not, where a "not" after it denies it."""

REPORTING = frozenset(
    "suggest suggests suggested suggesting indicate indicates indicated indicating indicative imply implies"
    " implied implying hint hints hinting signal signals signaled signaling signalling convey conveys conveying"
    " reflect reflects reflecting signify signifies signifying mean means meaning denote denotes denoting point"
    " points pointing reinforce reinforces reinforcing support supports supporting enhance enhances enhancing"
    " evoke evokes evoking express expresses expressing represent represents representing contribute contributes"
    " contributing contrast contrasts contrasting associated typical characteristic linked resembling resembles"
    " rather instead expected might may could which".split()
)
"""Words after which a clause that has told of the face says what it means by that."""

EXAMPLES = frozenset("such like unlike if when whenever often usually commonly typically would".split())
"""Words after which a clause speaks of what a face might show."""

CLAUSE_WORDS = frozenset("while but whereas although though yet however despite except".split())

GLUE = frozenset(
    "a an the of in at on to with by both and or his her their its is are was were be being been remain remains"
    " appear appears seem seems look looks stay stays also only more most very rather quite somewhat fairly"
    " relatively partially partly fully completely nearly almost mostly clearly visibly each side sides side's"
    " movement movements motion motions action actions activity position positions positioning tug shift shifts"
    " turn turned curve curved show shows showing shown display displays displaying exhibit exhibits exhibiting"
    " feature features featuring reveal reveals revealing demonstrate demonstrates have has having undergo clear"
    " visible noted observed evident present corresponding degree level levels amount simultaneous"
    " simultaneously symmetrical symmetrically gentle gently partial complete overall inner outer up open"
    " equally similarly tightly softly just symmetric asymmetrical extent s further there two any specific upper"
    " lower".split()
)
"""Words that may stand between a part and what it does."""

_SHARED: Mapping[tuple[str, str], str] = {
    ("brow", "up"): "brow raise",
    ("inner brow", "up"): "inner brow raise",
    ("outer brow", "up"): "outer brow raise",
    ("brow", "down"): "brow lowering",
    ("lid", "up"): "lid raise",
    ("lid", "wide"): "lid raise",
    ("eye", "wide"): "lid raise",
    ("eye", "close"): "eye closure",
    ("lid", "close"): "eye closure",
    ("eye", "squint"): "eye closure",
    ("nose", "wrinkle"): "nose wrinkling",
    ("cheek", "puff"): "cheek puff",
    ("upper lip", "up"): "upper lip raise",
    ("upper lip", "suck"): "upper lip suck",
    ("lower lip", "down"): "lower lip depression",
    ("lower lip", "suck"): "lower lip suck",
    ("corner", "up"): "lip corner pull",
    ("corner", "pull"): "lip corner pull",
    ("corner", "stretch"): "lip corner stretch",
    ("corner", "slide"): "lip corner stretch",
    ("lip", "slide"): "lip corner stretch",
    ("lip", "up"): "lip corner pull",
    ("mouth", "up"): "lip corner pull",
    ("lip", "stretch"): "lip corner stretch",
    ("mouth", "pucker"): "lip pucker",
    ("lip", "pucker"): "lip pucker",
    ("chin", "up"): "chin raise",
    ("jaw", "down"): "jaw drop",
    ("jaw", "slide"): "jaw slide",
    ("jaw", "thrust"): "jaw thrust",
}

_FACS_ALONE: Mapping[tuple[str, str], str] = {
    ("eye", "squint"): "lid tightening",
    ("eye", "tighten"): "lid tightening",
    ("lid", "tighten"): "lid tightening",
    ("cheek", "up"): "cheek raise",
    ("corner", "down"): "lip corner depression",
    ("corner", "tuck"): "lip dimpling",
    ("lip", "press"): "lip press",
    ("lip", "tighten"): "lip tightening",
    ("lip", "part"): "lip parting",
    ("lip", "funnel"): "lip funnel",
    ("lip", "bite"): "lip bite",
    ("lip", "suck"): "lip suck",
    ("mouth", "stretch"): "mouth stretch",
    ("nostril", "flare"): "nostril dilation",
}

MOVEMENT_OF: Mapping[str, Mapping[tuple[str, str], str]] = MappingProxyType(
    {
        FEAFA_24.name: MappingProxyType(_SHARED),
        FACS.name: MappingProxyType({**_SHARED, **_FACS_ALONE}),
    }
)
"""Vocabulary -> (part, what it does) -> movement of the lexicon. FEAFA has no name for some of the movements."""

TOKEN = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*(?:n['’]t)?|[.](?!\d)|[,;:!?()\n—–]")
"""Words and the signs that end clauses; numbers are of no interest here."""
