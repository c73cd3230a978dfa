"""The three-part reasoning text as a formal thing: one definition for whoever writes, reads, checks or scores it.

``write_parts`` and ``HEADINGS`` give the form; ``parse_cot`` reads a text strictly and raises ``UnparsableAnswer``
where it leaves the form; ``stated_units`` says which action units a text claims. The words are in one table
(``MOVEMENTS``, ``BANDS``), so that what is written with them is read back as it was meant. ``mirror_text`` turns a text
round with its picture. ``verify`` says what is wrong with any text, held against the values of its face.
"""

from expllm_jax.cot.answer_language import cot_language, label_language
from expllm_jax.cot.answer_protocols import PROTOCOLS, Protocol, read_label
from expllm_jax.cot.bands import BAND_WORDS, BANDS, STATED_FROM, Band, band, band_of, band_of_word
from expllm_jax.cot.byte_automaton import ByteAutomaton
from expllm_jax.cot.finding import FINDING_CODES, Finding
from expllm_jax.cot.free_statements import find_free_statements
from expllm_jax.cot.grammar import (
    EXPRESSION_WORDS,
    HEADINGS,
    Parts,
    UnparsableAnswer,
    concluded_expression,
    named_expressions,
    parse_label,
    split_parts,
    write_parts,
)
from expllm_jax.cot.lexicon import MOVEMENTS, Movement, codes_of_movements, movement_of
from expllm_jax.cot.mirror import mirror_text
from expllm_jax.cot.statements import ParsedCot, Statement, find_statements, parse_cot, stated_units
from expllm_jax.cot.verified_texts import VerifiedTexts
from expllm_jax.cot.verifier import verify
from expllm_jax.cot.verifier_rules import FREE_TEXT, STRICT, VerifierRules

__all__ = [
    "BANDS",
    "BAND_WORDS",
    "EXPRESSION_WORDS",
    "FINDING_CODES",
    "FREE_TEXT",
    "HEADINGS",
    "MOVEMENTS",
    "PROTOCOLS",
    "STATED_FROM",
    "STRICT",
    "Band",
    "ByteAutomaton",
    "Finding",
    "Movement",
    "ParsedCot",
    "Parts",
    "Protocol",
    "Statement",
    "UnparsableAnswer",
    "VerifiedTexts",
    "VerifierRules",
    "band",
    "band_of",
    "band_of_word",
    "codes_of_movements",
    "concluded_expression",
    "cot_language",
    "find_free_statements",
    "find_statements",
    "label_language",
    "mirror_text",
    "movement_of",
    "named_expressions",
    "parse_cot",
    "parse_label",
    "read_label",
    "split_parts",
    "stated_units",
    "verify",
    "write_parts",
]
