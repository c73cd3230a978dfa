"""The offline narrator's full style over many faces: is every text true, how long and varied are they, and how fast.

    python launch/bench/narrator.py --vectors 10000

Faces are drawn as the rendered ones are: a quarter each `clean`, `mild` and `hard`, and a quarter `independent`, whose
units have nothing to do with the label they are narrated with. FEAFA's vectors are those faces' coefficients, the sides
made unequal in every second one.

| per vocabulary | |
|---|---|
| `findings` | `cot.verify`'s finding codes → how many texts have them; nothing is expected |
| `words_median`, `words_min`, `words_max` | |
| `distinct_1` … `distinct_3` | over the first 1,534 texts, as many as there are released ones to compare with |
| `self_bleu` | over 200 of those |
| `texts_per_second` | of one core, the median of five fifths of the faces; drawing faces is left out |
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections import Counter
from typing import Any

import numpy as np

from expllm_jax.cot import verify
from expllm_jax.engine import NarratorConfig, narrate
from expllm_jax.evaluate.text_statistics import SAMPLE, distinct, self_bleu, words_of
from expllm_jax.faces import EXPRESSIONS, FEAFA_24, arkit_from_facs, feafa_from_arkit, vocabulary
from expllm_jax.sources.rendered import INDEPENDENT, REGIMES, sample_units

COMPARED = 1534  # texts in the half of the released set that is at hand
PASSES = 5
Face = tuple[str, dict[str, float]]


def drawn_face(name: str, number: int, seed: int) -> Face:
    """An expression and units of the vocabulary of that name."""
    rng = np.random.default_rng([seed, number])
    regime = (*REGIMES, INDEPENDENT)[number % (len(REGIMES) + 1)]
    expression = EXPRESSIONS[int(rng.integers(len(EXPRESSIONS)))]
    units = sample_units(None if regime == INDEPENDENT else expression, regime, rng)
    if name == FEAFA_24.name:
        units = feafa_from_arkit(arkit_from_facs(units))
        if rng.random() < 0.5:
            units = {code: float(min(1.0, value * rng.uniform(0.6, 1.2))) for code, value in units.items()}
    return expression, units


def measured(name: str, faces: list[Face], seed: int) -> dict[str, Any]:
    """All numbers of a vocabulary."""
    config, vocab = NarratorConfig(name, "full"), vocabulary(name)
    narrate(*faces[0], config, np.random.default_rng(0))  # phrase tables are made once
    texts: list[str] = []
    rates = []
    share = max(1, len(faces) // PASSES)
    for start in range(0, len(faces), share):
        began = time.process_time()
        for number, (expression, units) in enumerate(faces[start : start + share], start):
            texts.append(narrate(expression, units, config, np.random.default_rng([seed, number])))
        rates.append(len(faces[start : start + share]) / (time.process_time() - began))
    findings: Counter[str] = Counter()
    examples: dict[str, dict[str, str]] = {}
    for text, (expression, units) in zip(texts, faces, strict=True):
        found = verify(text, units=units, vocabulary=vocab, expression=expression, allowed=EXPRESSIONS)
        findings.update({finding.code for finding in found})
        for finding in found:
            examples.setdefault(finding.code, {"reason": finding.reason, "text": text})
    words = [words_of(text) for text in texts[:COMPARED]]
    lengths = [len(text.split()) for text in texts]
    return {
        "texts": len(texts),
        "findings": dict(findings),
        "examples": examples,
        "words_median": statistics.median(lengths),
        "words_min": min(lengths),
        "words_max": max(lengths),
        "characters_max": max(map(len, texts)),
        "different_texts": len(set(texts)),
        **{f"distinct_{length}": round(distinct(words, length), 4) for length in (1, 2, 3)},
        "distinct_over": len(words),
        "self_bleu": round(self_bleu(random.Random(seed).sample(words, min(SAMPLE, len(words)))), 4),
        "texts_per_second": round(statistics.median(rates)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vectors", type=int, default=10_000, help="faces of each vocabulary (default: 10,000)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    told = {}
    for name in ("facs", "feafa"):
        faces = [drawn_face(name, number, options.seed) for number in range(options.vectors)]
        told[name] = measured(name, faces, options.seed)
    print(json.dumps(told, ensure_ascii=False, indent=1))


if __name__ == "__main__":
    main()
