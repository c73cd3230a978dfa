"""Which label order do the counts of a data set speak for?

A wrong order still trains, on the wrong classes. The number of pictures in each class is published for most data sets,
and differs between classes, so it tells which order the numbers in a label file follow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from expllm_jax.errors import ExpllmError
from expllm_jax.faces.expressions import LABEL_ORDERS, NOT_EXPRESSIONS


@dataclass(frozen=True)
class OrderEvidence:
    """How well one label order explains the counts."""

    order: str  # a name in LABEL_ORDERS
    exact: bool  # every class has exactly its published number of pictures
    distance: float  # share of pictures in the wrong class at best, 0 to 1: half the sum of |share - published share|
    unexplained: tuple[int, ...]  # label numbers found that the order has no meaning for

    @property
    def explains(self) -> bool:
        """Whether the order can be the right one at all: it gives a meaning to every number found."""
        return not self.unexplained


def label_order_evidence(
    counts: Mapping[int, int],
    published: Mapping[str, int],
    orders: Mapping[str, Mapping[int, str]] = LABEL_ORDERS,
) -> tuple[OrderEvidence, ...]:
    """Every order, best first: those that explain all numbers before the others, then by distance, then by name.

    Shares are compared, so that a part of a data set speaks for its order too. Orders that number the expressions found
    alike, and classes of equal size (AffectNet's validation set), leave a tie: the caller sees equal distances.

    Args:
        counts: label number -> how many pictures have it. Numbers that stand for no expression in an order's data set
            (``NOT_EXPRESSIONS``) are left out for that order.
        published: expression -> how many pictures it is published to have.
    Raises:
        ExpllmError: a count is negative, or there are no pictures on either side.
    """
    for name, given in (("counts", counts), ("published counts", published)):
        if any(count < 0 for count in given.values()) or not any(given.values()):
            raise ExpllmError(f"The {name} are {dict(given)}.", "Give the number of pictures of each class.")
    evidence = [_evidence(name, order, counts, published) for name, order in orders.items()]
    return tuple(sorted(evidence, key=lambda e: (not e.explains, e.distance, e.order)))


def _evidence(
    name: str, order: Mapping[int, str], counts: Mapping[int, int], published: Mapping[str, int]
) -> OrderEvidence:
    skipped = NOT_EXPRESSIONS.get(name, {})
    counted = {number: count for number, count in counts.items() if count and number not in skipped}
    unexplained = tuple(sorted(number for number in counted if number not in order))
    found = {order[number]: count for number, count in counted.items() if number in order}
    expressions = {*found, *published}
    total, published_total = sum(counted.values()), sum(published.values())
    if total == 0:
        return OrderEvidence(name, False, 1.0, unexplained)
    gaps = sum(abs(found.get(e, 0) / total - published.get(e, 0) / published_total) for e in expressions)
    # Pictures under a number without meaning are in no class of the order.
    gaps += sum(counted[number] for number in unexplained) / total
    exact = not unexplained and all(found.get(e, 0) == published.get(e, 0) for e in expressions)
    return OrderEvidence(name, exact, 0.0 if exact else gaps / 2, unexplained)
