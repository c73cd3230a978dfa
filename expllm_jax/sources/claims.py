"""Every picture has exactly one annotation, and every annotation a picture: the book kept while labels are read."""

from __future__ import annotations

from posixpath import dirname

from expllm_jax.errors import ExpllmError
from expllm_jax.sources.listing import Listing, first_of


class Claims:
    """Which picture which line speaks of."""

    def __init__(self, listing: Listing) -> None:
        self._listing = listing
        self._places: dict[str, tuple[str, int]] = {}

    def claim(self, picture: str, file: str, line: int) -> None:
        """Notes that a line (0: the file as a whole) speaks of a picture.

        Raises:
            ExpllmError: another line did already, or there is no such picture.
        """
        earlier = self._places.setdefault(picture, (file, line))
        if earlier != (file, line):
            other, number = earlier
            place = f"line {number} of {other}" if number else other
            raise ExpllmError(f"{picture} was named before, in {place}.", "Keep one of the two.")
        if not self._listing.has(picture):
            raise ExpllmError(
                f"There is no picture {picture} below {self._listing.root}.", "Restore it, or remove the line."
            )

    def note(self, picture: str, file: str, line: int) -> None:
        """The same for a line that nobody asked for: remembered, not judged."""
        self._places.setdefault(picture, (file, line))

    def unclaimed(self, folder: str | None) -> ExpllmError | None:
        """What to say of pictures that no line speaks of: in a folder and below, or (None) beside the claimed ones."""
        if folder is None:
            beside = {dirname(picture) for picture in self._places}
            present = [path for part in sorted(beside) for path in self._listing.pictures_in(part)]
        else:
            present = list(self._listing.pictures(folder))
        left = [path for path in present if path not in self._places]
        if not left:
            return None
        return ExpllmError(
            f"{len(left):,} picture(s) below {self._listing.root} have no annotation: {first_of(left)}.",
            "Restore their lines, or move them away.",
        )
