"""The sentences of the full style, with their alternatives; see ``engine.phrasing`` for brackets and gaps.

Three rules keep the texts true, and readable by ``cot``:

* a word of intensity (``cot.BAND_WORDS``) stands only where the style puts one beside its movement;
* "left" and "right" stand only where they are sides, and "no" only before what is absent;
* an expression is named only through a gap, and in the conclusion only once.
"""

from __future__ import annotations

from collections.abc import Mapping

REGION_NAMES: Mapping[str, tuple[str, ...]] = {
    "brows": ("the brow area", "the brow region", "the area of the brows", "the forehead and brow area"),
    "eyes": ("the eye area", "the eye region", "the area around the eyes"),
    "nose": ("the nose area", "the nose region", "the area of the nose", "the middle of the face"),
    "cheeks": ("the cheek area", "the cheek region", "the area of the cheeks"),
    "mouth": ("the mouth area", "the mouth region", "the area around the mouth"),
    "chin": ("the chin area", "the chin region", "the area of the chin"),
    "jaw": ("the jaw area", "the jaw region", "the area of the jaw"),
}

# ---- observations ---------------------------------------------------------------------------------------------------
# {phrase}: "slight brow lowering"; {phrases}: a list of them; {region}: one of the names above; {tail}: an association.

ALONE_NOUN = (
    "{region} [shows|displays|presents|exhibits|reveals] {phrase}{tail}",
    "{region} [shows|has] {phrase}{tail}",
    "[in|within|around] {region}, [there {is}|one finds|one can see|one notes|the picture shows] {phrase}{tail}",
    "[there {is}|one can see|the picture shows|what can be seen {is}|what shows {is}] {phrase}{tail}",
    "[looking at|turning to|with regard to|as for] {region}, [one finds|one sees|one notes|there {is}] {phrase}{tail}",
    "[as is common in|as often in|as is usual in|as one may see in|as can be seen in] {labels}, {region} "
    "[shows|displays|presents|has] {phrase}",
    "{phrase} [mark|characterise|shape|change]{s} {region}[, and|;] {verdict}",
    "[a sign of|a sign that can go with|a movement known from|a movement seen in] {labels}, {phrase} {is} [visible|"
    "present|apparent] in {region}",
    "{phrase} [{is} visible|can be seen|{is} present|can be made out|{is} apparent] [in|within] {region}[, and|;] "
    "{verdict}",
    "{phrase} [{is} visible|can be seen|{is} present|can be made out][, and|;] {verdict}",
)
ALONE_STATE = (
    "{state}{tail}",
    "{state}[, and|;] {verdict}",
    "[in|within] {region}, {state}{tail}",
    "[one can see that|one notes that|the picture shows that|it can be seen that] {state}{tail}",
    "[looking at|turning to|as for] {region}, {state}{tail}",
    "[as is common in|as often in|as is usual in|as one may see in|as can be seen in] {labels}, {state}",
)
# For movements that no expression claims.
ALONE_NOUN_OPEN = tuple(sentence for sentence in ALONE_NOUN if "{labels}" not in sentence)
ALONE_STATE_OPEN = tuple(sentence for sentence in ALONE_STATE if "{labels}" not in sentence)

GROUPED = (
    "{region} [shows|displays|presents|exhibits|reveals] {phrases}{tail}",
    "[in|within|around] {region}, [one finds|one can see|one notes|the picture shows|there is] {phrases}{tail}",
    "{region} [combines|brings together] {phrases}{tail}",
)
NOTHING = (
    "[the face shows|the picture shows|there is] no clear movement in any [region|part|area] of the face",
    "no [region|part|area] of the face [shows|displays|presents] [a clear|any clear] movement",
    "there is no clear movement [anywhere|at any point] in the face",
    "[looking from brow to jaw|from the brows down to the jaw], no clear movement [can be made out|is visible|shows]",
)

# Before a further observation: of the same region or a lower one, and of a lower one only.
OPENERS = ("in addition", "moreover", "also", "at the same time", "besides", "further", "beyond that")
OPENERS_BELOW = ("further down", "below that", "lower in the face", "moving down", "next")

# Of one movement, {labels} being one or two expressions.
TAIL_ONE = (
    ", [often|commonly|frequently|typically|usually|regularly] [associated with|linked to|connected with|tied "
    "to|seen in|found in] {labels}",
    ", [a common|a frequent|a known|a familiar|one] sign of {labels}",
    ", which [can|may|might] [point to|go with|accompany|be a sign of|hint at] {labels}",
    ", [as is|something|a movement] [often|commonly|frequently] [seen|found|observed] in {labels}",
    ", in keeping with {labels}",
    ", [by most accounts|in many descriptions|according to most sources] [a sign of|a part of|linked to] {labels}",
    ", [much as|just as|as] one [sees|finds] it in {labels}",
)
VERDICT_ONE = (
    "this is [often|commonly|frequently|typically|usually|regularly] [associated with|linked to|connected with|tied "
    "to|seen in|found in] {labels}",
    "this [can|may|might] [point to|go with|accompany|be a sign of|hint at] {labels}",
    "this is [a common|a frequent|a known|a familiar|one] sign of {labels}",
    "[many|most|several] [accounts|sources|descriptions] [link|tie|relate] this to {labels}",
    "[this fits|this agrees with|this suits] [descriptions|accounts|the usual picture] of {labels}",
)
TAIL_NONE = (
    ", which [alone|by itself|on its own] points to no single expression",
    ", [a movement|something] that [many expressions can contain|is tied to no one expression|says little on its own]",
    ", which [by itself|taken alone|on its own] [says little|decides little|settles nothing]",
)
VERDICT_NONE = (
    "[alone|by itself|on its own] this points to no single expression",
    "this [is tied to no one expression|says little on its own|can occur in many expressions]",
)
TAIL_SEVERAL = (
    ", [by most accounts|in many descriptions|according to most sources] [signs of|linked to|parts of] {labels}",
    ", [which fit|which agree with|which suit] [descriptions|accounts|the usual picture] of {labels}",
    ", movements [often|commonly|frequently|] associated with {labels}",
    ", which are [often|commonly|frequently|typically|usually|regularly] [seen|found|observed] in {labels}",
    ", [all|movements] [in keeping with|known from|familiar from] {labels}",
    ", which [can|may] [point to|go with|accompany] {labels}",
)

MISSING = (
    "[no clear|no] {noun} [is visible|can be seen|can be made out|is present]",
    "there is [no clear|no] {noun}",
    "[the face|the picture] shows [no clear|no] {noun}",
)
RESTING = (  # {areas}: "the brows and the chin"; {s} ends the verb: "stays", "stay"
    "{areas} [stay|remain]{s} [close to|near|at] rest",
    "{areas} [show]{s} [nothing|nothing that stands out|nothing to speak of|nothing of note]",
    "{areas} [contribute|add]{s} [nothing|nothing to the picture|nothing of note]",
    "[nothing|nothing clear|nothing of note|nothing to speak of] [happens|takes place|shows|moves] in {areas}",
    "[at|close to|near] rest {is} {areas}",
)
REST_OF_THE_FACE_RESTING = RESTING[:-1]  # "at rest is the rest of the face" is no English
REST_OF_THE_FACE = ("the rest of the face", "the remaining face", "all of the remaining face")

# ---- interpretation -------------------------------------------------------------------------------------------------
# {label}: the expression, such as "anger" or "an expression of anger"; {names}: a list of "the brow lowering"s.

SUPPORT_SEVERAL = (
    "[together|taken together|read together|in combination|jointly], {names} [form|make up|produce|yield|give] "
    "[a pattern|a picture|a configuration|a combination] [associated with|typical of|characteristic of|known from] "
    "{label}",
    "the [combination|co-occurrence|interplay|joint presence|meeting] of {names} is [in keeping with|consistent with|"
    "typical of|characteristic of|what one expects in] {label}",
    "[seen jointly|seen together|read as a whole|taken as a group|considered together], {names} [speak for|point to|"
    "argue for|suggest|indicate|support] {label}",
    "[what speaks for|the case for|what supports|the argument for] {label} is [that|the fact that] {names} "
    "[occur together|come together|appear together|are present at once|join]",
    "{names} [belong together here|reinforce one another|work in the same direction|complement one another]"
    "[, and|:] [together they|jointly they|as a group they] [suggest|point to|indicate|speak for] {label}",
    "[it is|here it is] {names} that, [taken together|as a group|in combination|jointly], [suggest|point to|indicate|"
    "speak for] {label}",
)
SUPPORT_ONE = (
    "{names} is the [movement|sign|feature|cue] that [points to|speaks for|argues for|suggests] {label}",
    "of [what is visible|all that can be seen|what the face shows], {names} is [in keeping with|consistent with|"
    "typical of] {label}",
    "[the case for|the argument for] {label} [rests on|depends on|hangs on|is made by] {names}[| alone| more than on "
    "anything else]",
    "it is {names} that [points to|speaks for|suggests|brings to mind] {label}",
)
SUPPORT_NONE = (
    "[nothing that is visible|none of what is visible|nothing that can be seen] belongs to the "
    "[usual|typical|familiar] "
    "[pattern|picture|signs] of {label}, so the reading [stays|remains] [uncertain|open|tentative]",
    "the [usual|typical|familiar] [pattern|picture] of {label} is not [present|visible|there] as such, so the reading "
    "[stays|remains] [uncertain|open|tentative]",
    "[what is visible|what can be seen] [does not fit|departs from] the [usual|typical|familiar] [pattern|picture] of "
    "{label}, [so the reading is uncertain|which leaves the reading open|and the reading is tentative]",
)
SUPPORT_STILL = (
    "[whatever|anything that] points to {label} stays below what can be told, so the impression is [faint|weak]",
    "the impression of {label} is [faint|weak|tentative] and rests on no single movement",
    "[since nothing moves clearly|without a clear movement], the impression of {label} [is|remains] [faint|weak|"
    "tentative]",
)
NEUTRAL_STILL = (
    "[with every region close to rest|with the whole face close to rest|with all parts near rest], [the face|the "
    "picture|this face] "
    "[carries|conveys|gives|sends] no particular emotional [signal|message|colour]",
    "since nothing moves clearly, the face [as a whole|taken as a whole|overall] [signals|conveys|suggests] no "
    "particular emotion",
)
NEUTRAL_MOVED = (
    "a [neutral|resting] face stays close to rest, and {names} [departs from|goes beyond|is more than] that",
    "{names} [departs from|is a departure from|is at odds with] a face at rest, so the [neutral impression|impression "
    "of rest] is not [a pure|an undisturbed|a complete] one",
    "[set against|compared with] a face at rest, {names} [stands out|is what differs|catches the eye], yet it does "
    "[not add up to|not make] an emotion",
)
CONTRAST_ELSEWHERE = (
    "[in contrast|by contrast|on the other hand|however], {names} is [more often|rather|more commonly|usually] "
    "[linked to|associated with|seen in|found in] {others}[, which hints at a blend|, a hint of a mixed state|]",
    "{names} does not belong to the [usual|typical|familiar] [picture|pattern] of {label} and [rather suggests|would "
    "rather suggest|fits better with|is more at home in] {others}",
    "{names} [complicates|disturbs|qualifies] [this reading|the picture|this picture], [being|since it is] [more often|"
    "more commonly|usually] [linked to|associated with|seen in] {others}",
    "{names} [points|pulls] [elsewhere|in another direction], [towards|namely to] {others}",
)
CONTRAST_OPEN = (
    "{names} is tied to no single expression and [leaves the reading open|changes little|leaves the rest as it is]",
    "{names} [adds|contributes] [little to decide the matter|nothing that decides the matter], [since it occurs|as it "
    "occurs|occurring] in many expressions",
)
STRONGEST = (
    "the [strongest|clearest|main|plainest] [signal|cue|sign] [comes from|lies in|is found in] {area}, where {names} "
    "[stands out|dominates|catches the eye|is plainest]",
    "[among|of] all [movements|that moves|that is visible], {names} [stands out|catches the eye|is the plainest|"
    "comes first]",
    "{names} [carries|holds|bears] [the greatest weight|the most weight|more weight than anything else][ here| in this "
    "face| in this reading|]",
    "[what stands out most|what catches the eye first|the first thing to notice] is {names}",
)
FULLER = (
    "for a [fuller|more complete|textbook] picture of {label}, [the face|it] lacks {noun}",
    "without {noun}, the picture of {label} [stays|remains|is] [incomplete|a partial one|less than complete]",
    "the picture of {label} is [less full|less complete|not a textbook one] without {noun}",
    "[a textbook case|the textbook form] of {label} is not reached without {noun}",
)
WHERE = (  # {half}: the upper, the middle or the lower part
    "most of [the movement|what moves|the activity|what is visible] [lies|is found|takes place] in the {half} [part|"
    "third] of the face",
    "[it is mainly|above all it is|mostly it is] the {half} [part|third] of the face that [moves|is active|speaks]",
    "the {half} [part|third] of the face [does most of the work|carries most of the message|is the most active]",
)
ALONE_IT_WOULD = (  # of any movement
    "[on its own|by itself|alone|taken singly], {names} could [be read in several ways|mean many things|occur in other "
    "states too|be a mere habit]",
    "{names} [draws|calls|leads] [the eye|attention|the gaze] to {area}",
    "{names} [sets the tone|shapes the impression|gives the lead] in {area}",
    "[as far as|where] {area} is concerned, {names} [is what counts|is what matters|decides]",
    "[had one only|if one had nothing but|with nothing but] {area} to go by, {names} would be [the whole|all the] "
    "evidence",
    "{names} is [best|most easily] [seen|read] [against|in comparison with] the rest of {area}",
)
BOTH = (  # of any two movements in different regions that belong to the expression
    "{area} and {other} [tell the same story|say the same|agree|point the same way]: {names} here, {second} there",
    "{names} and {second} [occur in different regions|lie apart in the face], [yet they|but they] [act as one|belong "
    "together|go together]",
    "from {names} to {second}, [the face|all that moves] [speaks with one voice|tells one story|is of one piece]",
    "{names} [is matched|is met|is answered|is echoed] by {second}[ elsewhere| in another region|]",
)
POINTERS = ("this", "the visible", "the observed", "the described")
SYMMETRIC = (
    "both [sides|halves] of the face [move alike|behave alike|agree|do the same]",
    "the movements are [symmetric|the same on both sides|even on both sides]",
    "[nothing sets|no difference sets] the two sides of the face apart",
)
ASYMMETRIC = (
    "the two [sides|halves] of the face [do not move alike|differ|do not agree in everything]",
    "the [movement is|movements are] not [fully symmetric|the same on both sides|even across the face]",
)
GENERAL = (
    "[a movement|a sign|a cue] [counts|weighs] [more|for more] [where|when] [others|its neighbours] [agree with "
    "it|point the same way|bear it out]",
    "[this is|what follows is|the text gives] a [reading|description|judgement] of [appearance|looks], [not|and not] "
    "of [character|intention|inner state]",
    "[the more|as a rule, the more] [movements|signs] [agree|coincide|point one way], the [firmer|safer|surer] the "
    "[reading|verdict|impression]",
    "[people|faces] differ in [how they|the way they] [show|express|display] what [they feel|is felt], so this "
    "[describes|reports|is about] [what is|only what is] [visible|seen|on display]",
    "[intensity is|intensities are|how far a part has moved is] [judged|rated|measured|estimated] [against|in "
    "comparison with] [the same|this|the given] face at rest",
    "[upper and lower face|the upper and the lower face|all parts of the face] [are given|receive|get] [the "
    "same|equal] [weight|attention|care] [in this reading|here]",
    "[it is|above all it is] the [whole|pattern|combination] that counts, [and not|rather than] [any one|one single] "
    "movement",
    "a face [can|may] [show|display|take on] [this|such a pattern|such a look] for [more than one reason|several "
    "reasons|many reasons], [so the reading is about|and the reading concerns|and what is read is] its "
    "[look|appearance] [only|alone]",
    "[no account is taken|account is not taken|nothing is made] of [the setting|the situation|the scene|what came "
    "before or after|what was said]",
    "a single [picture|frame|moment] [cannot tell|does not tell|leaves open] how [long|briefly] [a movement|an "
    "expression|any of this] [lasts|was held|had been there]",
    "what the person [behind the face|in the picture] feels [is another matter|is not claimed|remains unknown]",
    "[other|further] [clues|sources], such as [voice|posture|gesture] or [context|the scene], [are not|were not] "
    "[used|consulted|considered]",
    "[where|whenever] [movements|signs] [disagree|conflict], the [larger|better attested] [group|part] of them decides",
    "[movements|changes] too [faint|small] to name are [passed over|not mentioned]",
)
GENERAL_MOVED = (  # only where movements were told
    "[taken one at a time|one by one|taken singly|on their own], such [movements|signs|cues] [stay|remain|are] "
    "[ambiguous|open to several readings], [so they are|which is why they are|and so they are] "
    "[read|weighed|considered] together",
    "[the reading|this reading|the interpretation] [follows|goes by] the [movements|units] [listed|described|told] "
    "above[ and nothing else|]",
    "[each|every] [movement|unit] [listed|described] here has been [weighed|considered] [with|against] the others",
    "[the order|the order above] is that of the face, [from brow to jaw|from the brows to the jaw|top to bottom][, "
    "and not that of importance|]",
)
INTERPLAY: tuple[tuple[frozenset[str], tuple[str, ...]], ...] = (
    # Movements that mean more together than apart; names as in the lexicon.
    (
        frozenset({"cheek raise", "lip corner pull"}),
        (
            "cheek raise [joined to|together with|alongside] lip corner pull is what [tells a felt "
            "smile|distinguishes a "
            "felt smile|sets a felt smile apart] from a posed one",
            "[because|since] the cheeks take part, the lip corner pull [looks|comes across as] [felt|genuine|lived] "
            "rather than posed",
            "lip corner pull [with|joined by|accompanied by] cheek raise [involves the eyes as well as the "
            "mouth|reaches "
            "from the mouth up to the eyes]",
        ),
    ),
    (
        frozenset({"inner brow raise", "brow lowering"}),
        (
            "inner brow raise [against|together with|working against] brow lowering [slants|angles|tilts] the brows, a "
            "shape [usually|often|commonly] read as distress",
            "[the brows are drawn two ways:|two forces act on the brows:] inner brow raise and brow lowering [give "
            "them "
            "a slant|bend them into a slant]",
        ),
    ),
    (
        frozenset({"inner brow raise", "outer brow raise"}),
        (
            "inner brow raise and outer brow raise together lift the [whole|entire] brow, as when attention is "
            "[caught|drawn]",
            "[since|because|as] inner brow raise and outer brow raise [coincide|come together|meet], the brow goes up "
            "[along its length|as a whole]",
        ),
    ),
    (
        frozenset({"brow lowering", "lid tightening"}),
        (
            "brow lowering and lid tightening [reinforce|support|strengthen] each other and [harden|sharpen|focus] the "
            "gaze",
            "[with|given] brow lowering above and lid tightening below, the gaze [hardens|turns hard|becomes a stare]",
        ),
    ),
    (
        frozenset({"nose wrinkling", "upper lip raise"}),
        (
            "nose wrinkling and upper lip raise [act together|join] to [close the face off from|turn the face away "
            "from|shut out] something unpleasant",
            "[the link between|the meeting of] nose wrinkling and upper lip raise [is that of|recalls] a face that "
            "[rejects|recoils from] a bad smell",
        ),
    ),
    (
        frozenset({"lip corner depression", "chin raise"}),
        (
            "lip corner depression and chin raise [push|bend|press] the mouth into a downward [arc|curve]",
            "[together|jointly], lip corner depression and chin raise [give the mouth|turn the mouth into] a downward "
            "[arc|curve]",
        ),
    ),
    (
        frozenset({"lid raise", "jaw drop"}),
        (
            "lid raise [with|together with|alongside] jaw drop [opens|widens] the face [in its upper and lower half|"
            "above and below] at once",
            "[both eyes and mouth|eyes and mouth alike] open in lid raise and jaw drop",
        ),
    ),
    (
        frozenset({"lid raise", "mouth stretch"}),
        (
            "lid raise [with|together with|alongside] mouth stretch [opens|widens] the face [in its upper and lower "
            "half|above and below] at once",
        ),
    ),
    (
        frozenset({"lid raise", "brow raise"}),
        (
            "lid raise and brow raise work in the same direction and [widen|open] the gaze",
            "brow raise [continues|carries on|extends] what lid raise [begins|starts], and the gaze [opens|widens]",
        ),
    ),
    (
        frozenset({"lid raise", "inner brow raise"}),
        (
            "inner brow raise and lid raise [open|widen] the upper face [as in alarm|as when something "
            "startles|together]",
        ),
    ),
    (
        frozenset({"lip stretch", "brow lowering"}),
        (
            "lip stretch under brow lowering [adds|brings|gives] tension to both halves of the face",
            "[tension runs|there is tension] from brow lowering above to lip stretch below",
        ),
    ),
    (
        frozenset({"lip press", "brow lowering"}),
        (
            "brow lowering [above|over] lip press [gives|lends] the face [a look of held-back force|a restrained, "
            "determined look|a closed look]",
        ),
    ),
    (
        frozenset({"brow lowering", "lid raise"}),
        ("brow lowering over lid raise [makes for|produces|results in] a [glaring|piercing|fixed] gaze",),
    ),
    (
        frozenset({"lip stretch", "jaw drop"}),
        ("lip stretch and jaw drop [pull|draw] the mouth [both wide and open|in two directions]",),
    ),
    (
        frozenset({"brow raise", "jaw drop"}),
        (
            "brow raise [above|over] jaw drop [lengthens|draws out] the face [as astonishment does|from top to bottom]",
            "brow raise and jaw drop [pull|draw] the face [apart from the middle|up and down at once]",
        ),
    ),
    (
        frozenset({"upper lip raise", "lower lip depression"}),
        ("upper lip raise and lower lip depression [bare|uncover|expose] the teeth [from both sides|above and below]",),
    ),
    (
        frozenset({"chin raise", "upper lip raise"}),
        ("chin raise under upper lip raise [crowds|bunches|compresses] the mouth from [below|underneath]",),
    ),
)
OPPOSED = frozenset({"lip corner pull", "lip corner depression"})
OPPOSED_SENTENCES = (
    "lip corner pull and lip corner depression [work against each other|pull in opposite directions|are at odds], "
    "which "
    "[makes|leaves] the mouth [ambiguous|hard to read|undecided]",
)

# ---- conclusion -----------------------------------------------------------------------------------------------------

CONCLUSION = (
    "[overall|in sum|all in all|on balance|altogether], this is [best|most plausibly|most fittingly] [described|read|"
    "classified|understood] as {label}",
    "[in summary|to sum up|taken as a whole|on the whole], the [overall|general|prevailing] impression is [one of|that "
    "of] {noun}",
    "the face [as a whole|in its entirety|overall] is [therefore|thus|accordingly] [read as|taken to show|judged to "
    "show|understood to show] {label}",
    "[weighing all of this|with all of this weighed|all things considered|putting these points together], the "
    "[conclusion|verdict|reading] is {label}",
    "the expression is [therefore|thus|accordingly|in all likelihood|most likely] [one of|that of] {noun}",
    "[what this face shows|what can be read from this face|what all this amounts to] is [therefore|thus|accordingly|in "
    "all likelihood|most likely] {label}",
    "[these observations|the observations above|the movements described] [lead to|add up to|support|amount to] {label}",
)
CONCLUSION_STILL = CONCLUSION[:-1]  # the last is about movements
CONCLUSION_NEUTRAL = (
    "[overall|in sum|all in all|on balance|altogether], this is [best|most plausibly|most fittingly] [described|read|"
    "classified|understood] as {label}",
    "[in summary|to sum up|taken as a whole|on the whole], the [overall|general|prevailing] impression is neutral",
    "the face [as a whole|in its entirety|overall] is [therefore|thus|accordingly] [read as|judged to be|taken to be] "
    "neutral",
    "[weighing all of this|all things considered|putting these points together], the [conclusion|verdict|reading] is "
    "{label}",
)
EVIDENCE = (
    "the [main|chief|most telling|central] evidence [is|comes from|lies in] {names}",
    "[this|this reading|the verdict|the conclusion] [rests|relies|is based] [mainly|chiefly|above all|first of all] on "
    "{names}",
    "[here|in all this], {names} [weigh|count]{s} [most|more than the rest]",
    "{names} [give]{s} [the decisive hint|the decisive clue|the best reason for this reading]",
    "[it is|mainly it is|above all it is] {names} that [decide|settle]{s} the matter",
)
EVIDENCE_STILL = (
    "[nothing|no movement] [calls for|would support|asks for] a [more definite|bolder|firmer] [reading|verdict|answer]",
    "[the calm|the quiet|the repose] of the [face|features] is [all|the only thing] there is to go by",
    "[this|the reading|the verdict] [rests|relies|is based] on the stillness of the face",
    "the stillness of the face [decides|settles the matter|is what counts]",
)
CERTAINTY_HIGH = (
    "[little|nothing] [in the face|that is visible|in the picture] [speaks against|argues against|contradicts] [this|"
    "this reading]",
    "[the observations|the movements|the signs] [agree with one another|are of one piece|all agree]",
)
CERTAINTY_MIXED = (
    "[not everything|not every movement|not all that is visible] [fits|agrees], so [some doubt remains|the reading is "
    "held with some reserve|other readings are possible]",
    "[the remaining movements|what does not fit] [leave|leaves] room for [doubt|another reading]",
)
