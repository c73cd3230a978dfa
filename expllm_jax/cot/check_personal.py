"""Whether a text speaks of who somebody is: age, sex, ethnicity, identity."""

from __future__ import annotations

import re
from collections.abc import Iterator

from expllm_jax.cot.finding import Finding

_WORDS = {
    "sex": r"wom[ae]n|m[ae]n|female|male|girls?|boys?|lad(?:y|ies)|gentlem[ae]n|guys?|he|she|him"
    r"|hers?|his|himself|herself|feminine|masculine|gender|mother|father|husband|wife",
    "age": r"young(?:er|ish|ster)?|elderly|old(?:er)?|aged?|teen(?:ager?|agers|aged)?|child(?:ren)?|kids?|adults?"
    r"|bab(?:y|ies)|infants?|toddlers?|adolescents?|middle-aged|years? old|senior citizens?",
    "ethnicity": r"asian|african|caucasian|hispanic|latin[oa]|indian|chinese|japanese|korean|european|american"
    r"|arab(?:ic)?|middle[- ]eastern|(?:black|white|brown)(?=\s+(?:person|people|individual|skin|face))"
    r"|ethnic(?:ity)?|race|racial|skin (?:tone|colou?r)|(?:dark|light|fair|pale)[- ]skinned",
    "identity": r"celebrity|actor|actress|politician|famous|identity of",
}
_PERSONAL = re.compile(
    rf"(?<![\w'’-])(?:{'|'.join(f'(?P<{about}>{words})' for about, words in _WORDS.items())})(?![\w-])", re.IGNORECASE
)


def check_personal_words(text: str) -> Iterator[Finding]:
    """Findings about words that tell a person's age, sex, ethnicity or identity."""
    for match in _PERSONAL.finditer(text):
        reason = f"{match[0]!r} tells of a person's {match.lastgroup}: speak of the face alone."
        yield Finding("personal-word", match.start(), match.end(), reason)
