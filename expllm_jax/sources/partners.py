"""Pictures that each have a file of their own beside them, called the same but for the ending."""

from __future__ import annotations

from collections.abc import Iterator
from posixpath import join, splitext

from expllm_jax.errors import ExpllmError
from expllm_jax.sources.dataset import Problems
from expllm_jax.sources.listing import Listing, first_of


def with_partner(listing: Listing, folder: str, ending: str, problems: Problems) -> Iterator[tuple[str, str]]:
    """The pictures in a folder, but not below it, and each one's file, as paths relative to the root, in order.

    `problems` is told of files without a picture, of pictures without a file, and of a picture that is called like
    another but for the ending; the last two are left out.
    """
    files = listing.files(folder)
    pictures = listing.pictures_in(folder)
    stems = {splitext(picture)[0] for picture in pictures}
    alone = sorted(name for name in files if name.endswith(ending) and join(folder, splitext(name)[0]) not in stems)
    if alone:
        problems(ExpllmError(f"{listing.root / folder}: no picture belongs to {first_of(alone)}.", "Restore it."))
    owners: dict[str, str] = {}
    for picture in pictures:
        partner = splitext(picture)[0] + ending
        owner = owners.setdefault(partner, picture)
        if owner != picture:
            problems(
                ExpllmError(
                    f"{listing.root / picture}: {owner} has the same {ending} file.", "Keep one of the two pictures."
                )
            )
        elif not listing.has(partner):
            problems(
                ExpllmError(
                    f"{listing.root / picture} has no {ending} file beside it.", "Restore it, or move the picture away."
                )
            )
        else:
            yield picture, partner
