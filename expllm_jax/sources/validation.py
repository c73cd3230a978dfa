"""What is wrong with a dataset on this disk, before anything is trained on it.

``validate`` looks at every picture once and compares what it finds with what is published. Everything that a person
should look at is a ``Finding``; a dataset without findings is as it should be, as far as its files can tell.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from expllm_jax.errors import ExpllmError
from expllm_jax.faces import LABEL_ORDERS, Annotation, label_order_evidence
from expllm_jax.sources.look_alikes import THUMBNAIL, Look, look_alikes, look_of

KINDS = {
    "reading": "lines and files that could not be read as annotations",
    "counts": "classes that have not their published number of pictures",
    "label-order": "labels that seem to follow another order",
    "unreadable": "pictures that cannot be read",
    "tiny": "pictures too small for a face to be seen",
    "flat": "pictures of one colour",
    "listed-twice": "pictures that are listed more than once",
    "duplicate": "the same file twice in one split",
    "look-alike": "pictures of one split that look the same",
    "shared-file": "the same file in two splits",
    "shared-look": "pictures that look the same in two splits",
    "shared-identity": "people that are trained on and in another split",
}
"""Kind of finding -> what it is, in the plural; in the order in which they are shown."""

SMALLEST_SIDE = 32
"""Pixels of the shorter side below which a picture is a finding: an eye is then some five pixels wide."""

KNOWN = ("expression", "units", "landmarks", "face_box", "attributes", "identity", "cot", "caption")
"""The fields of an annotation of which is counted how many have one."""

_AHEAD = 4096  # pictures given to the threads at once, so that a million of them is no million waiting tasks
# When another label order is told of: it leaves at most this share of the pictures unexplained, the order they were
# read in that much more, and there are enough of them for shares to mean something.
_ORDER_MARGIN, _ORDER_PICTURES = 0.05, 100


@dataclass(frozen=True)
class Finding:
    """One thing to look at."""

    kind: str  # a key of KINDS
    what: str  # a sentence
    pictures: tuple[str, ...] = ()  # those it is about, at most two


@dataclass(frozen=True)
class ClassCount:
    """How many pictures of a class a split has, beside the published number."""

    split: str
    expression: str
    found: int
    published: int | None  # None: nothing is published

    @property
    def difference(self) -> int | None:
        return None if self.published is None else self.found - self.published

    @property
    def verdict(self) -> str:
        """ "as published", "3 missing", "2 too many" or "nothing published"."""
        if self.difference is None:
            return "nothing published"
        if not self.difference:
            return "as published"
        return f"{-self.difference:,} missing" if self.difference < 0 else f"{self.difference:,} too many"


@dataclass(frozen=True)
class Validation:
    """What was found."""

    root: Path
    annotations: int
    pictures: int  # distinct paths
    counts: tuple[ClassCount, ...]
    findings: tuple[Finding, ...]
    known: Mapping[str, int]  # of KNOWN, units by vocabulary and attributes by name -> how many annotations have it
    sizes: Mapping[str, int]  # "100 x 100" -> pictures, most frequent first
    modes: Mapping[str, int]  # "JPEG RGB" -> pictures, most frequent first
    recorded: int  # look-alikes of one person in one split, as frames of a film are; no findings
    samples: Mapping[str, tuple[str, ...]]  # expression -> some pictures, chosen by a hash of their names

    @property
    def clean(self) -> bool:
        return not self.findings

    def by_kind(self) -> Iterator[tuple[str, list[Finding]]]:
        """The kinds that there are findings of, in the order of KINDS."""
        for kind in KINDS:
            found = [finding for finding in self.findings if finding.kind == kind]
            if found:
                yield kind, found


@dataclass(frozen=True)
class _Picture:
    """What one file is."""

    problem: str = ""
    sha256: bytes = b""
    size: tuple[int, int] = (0, 0)  # width, height
    mode: str = ""
    look: Look | None = None


def validate(
    annotations: Sequence[Annotation],
    root: str | os.PathLike[str],
    *,
    read: Callable[[bytes], np.ndarray],
    published: Mapping[str, Mapping[str, int]] | None = None,
    order: str = "",
    problems: Iterable[ExpllmError] = (),
    samples: int = 6,
    smallest_side: int = SMALLEST_SIDE,
    workers: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Validation:
    """Looks at every picture of the annotations and compares the whole with what is published.

    Args:
        annotations: of the whole dataset, or of the splits that are compared.
        root: the folder that their pictures are relative to.
        read: decodes a picture as training will, uint8 [height, width, 3]; raises ExpllmError for what that refuses.
        published: split -> expression -> number of pictures; empty where nothing is known.
        order: the name in LABEL_ORDERS that the label numbers were read with; "" if there were no numbers.
        problems: what the reader could not take.
        samples: how many pictures of each class are named.
        workers: threads; one per core by default. Decoding and hashing let them run side by side.
        progress: is told (pictures done, pictures in all).
    """
    root = Path(root)
    published = published or {}
    owner: dict[str, Annotation] = {}
    # A file's name may be no text, which could not be shown.
    findings = [Finding("reading", error.problem.encode(errors="backslashreplace").decode()) for error in problems]
    for annotation in annotations:
        other = owner.setdefault(annotation.picture, annotation)
        if other is not annotation and other.face_box == annotation.face_box:
            findings.append(_listed_twice(other, annotation))
    names = list(owner)
    found = dict(zip(names, _look_at(root, names, read, workers, progress), strict=True))
    for name, picture in found.items():
        if picture.problem:
            findings.append(Finding("unreadable", picture.problem, (name,)))
        elif min(picture.size) < smallest_side:
            findings.append(Finding("tiny", f"{name} is {_times(picture.size)} pixels", (name,)))
        elif picture.look is not None and picture.look.flat:
            findings.append(Finding("flat", f"{name} is of one colour", (name,)))
    counts = tuple(_counts(annotations, published))
    findings += _wrong_counts(counts)
    findings += _wrong_order(counts, order)
    findings += _same_files(owner, found)
    alike, recorded = _same_looks(owner, found)
    findings += alike
    findings += _shared_identities(annotations)
    readable = [picture for picture in found.values() if not picture.problem]
    return Validation(
        root=root,
        annotations=len(annotations),
        pictures=len(names),
        counts=counts,
        findings=tuple(sorted(findings, key=lambda finding: list(KINDS).index(finding.kind))),
        known=_known(annotations),
        sizes=dict(Counter(_times(picture.size) for picture in readable).most_common()),
        modes=dict(Counter(picture.mode for picture in readable).most_common()),
        recorded=recorded,
        samples=_samples(owner, found, samples),
    )


def _look_at(
    root: Path,
    names: Sequence[str],
    read: Callable[[bytes], np.ndarray],
    workers: int | None,
    progress: Callable[[int, int], None],
) -> Iterator[_Picture]:
    """The pictures in the order of `names`."""
    waiting, done = iter(names), 0
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        while batch := list(islice(waiting, _AHEAD)):
            for picture in pool.map(lambda name: _picture(root, name, read), batch):
                yield picture
                done += 1
                progress(done, len(names))


def _picture(root: Path, name: str, read: Callable[[bytes], np.ndarray]) -> _Picture:
    try:
        content = (root / name).read_bytes()
    except OSError as error:
        return _Picture(problem=f"{name} cannot be read ({error.strerror})")
    digest = hashlib.sha256(content).digest()
    size, mode = _header(content)
    if mode and min(size) < SMALLEST_SIDE // 2:  # `read` may refuse it for its size, which is a finding of its own kind
        return _Picture(sha256=digest, size=size, mode=mode)
    try:
        return _Picture(sha256=digest, size=size, mode=mode, look=look_of(read(content)))
    except ExpllmError as error:
        return _Picture(problem=f"{name}: {error.problem}", sha256=digest)


def _header(content: bytes) -> tuple[tuple[int, int], str]:
    """Width and height, format and mode; (0, 0) and "" where there is no header to be read."""
    try:
        with Image.open(io.BytesIO(content)) as header:
            return header.size, f"{header.format} {header.mode}"
    except Exception:  # on broken files Pillow raises nearly everything; what is wrong is told by who reads it
        return (0, 0), ""


def _listed_twice(first: Annotation, second: Annotation) -> Finding:
    said = ""
    if first.expression != second.expression:
        said = f", as {first.expression} and as {second.expression}"
    if first.split != second.split:
        said += f", in '{first.split}' and in '{second.split}'"
    return Finding("listed-twice", f"{first.picture} is listed more than once{said}", (first.picture,))


def _counts(annotations: Sequence[Annotation], published: Mapping[str, Mapping[str, int]]) -> Iterator[ClassCount]:
    """Every class of every split that is found or published; faces without an expression are no class."""
    found = Counter((a.split, a.expression) for a in annotations if a.expression is not None)
    splits = dict.fromkeys([*published, *(split for split, _ in found)])
    for split in splits:
        expected = published.get(split, {})
        for expression in dict.fromkeys([*expected, *sorted(word for place, word in found if place == split)]):
            number = expected.get(expression, 0) if expected else None
            yield ClassCount(split, expression, found[split, expression], number)


def _wrong_counts(counts: Sequence[ClassCount]) -> Iterator[Finding]:
    for row in counts:
        if row.difference:
            yield Finding(
                "counts",
                f"{row.split}: {row.found:,} of {row.expression}, published are {row.published:,} ({row.verdict})",
            )


def _wrong_order(counts: Sequence[ClassCount], order: str) -> Iterator[Finding]:
    """Whether the numbers of pictures belong to other classes than those they were read as."""
    for split in dict.fromkeys(row.split for row in counts):
        rows = [row for row in counts if row.split == split and row.published is not None]
        found = {row.expression: row.found for row in rows if row.found}
        published = {row.expression: row.published for row in rows if row.published}
        if not found or not published or found == published:
            continue
        if order in LABEL_ORDERS:
            numbers = {expression: number for number, expression in LABEL_ORDERS[order].items()}
            if set(found) <= set(numbers) and sum(found.values()) >= _ORDER_PICTURES:
                evidence = label_order_evidence({numbers[word]: n for word, n in found.items()}, published)
                ours = next(each for each in evidence if each.order == order)
                best = evidence[0]
                if best.explains and best.distance <= _ORDER_MARGIN < ours.distance - best.distance:
                    fits = "exactly" if best.exact else f"but for {best.distance:.1%} of the pictures"
                    yield Finding(
                        "label-order",
                        f"{split}: the labels were read in the order of {order}; the order of {best.order} explains "
                        f"how many pictures each class has {fits}",
                    )
                    continue
        swapped = _swapped(found, published)
        if swapped:
            yield Finding("label-order", f"{split}: " + ", ".join(swapped))


def _swapped(found: Mapping[str, int], published: Mapping[str, int]) -> list[str]:
    """What is read as which class, if the numbers are the published ones in another order."""
    if sorted(found.values()) != sorted(published.values()) or len(set(published.values())) < len(published):
        return []
    of = {number: expression for expression, number in published.items()}
    return [
        f"what is labelled {expression} has the published number of {of[number]}"
        for expression, number in found.items()
        if of[number] != expression
    ]


def _same_files(owner: Mapping[str, Annotation], found: Mapping[str, _Picture]) -> Iterator[Finding]:
    first: dict[tuple[bytes, str], str] = {}  # (content, split) -> the first picture with it there
    anywhere: dict[bytes, str] = {}
    for name, picture in found.items():
        if not picture.sha256 or picture.problem:
            continue
        split = owner[name].split
        inside = first.setdefault((picture.sha256, split), name)
        if inside != name:
            yield Finding("duplicate", _pair(owner, inside, name, "are the same file"), (inside, name))
            continue
        outside = anywhere.setdefault(picture.sha256, name)
        if outside != name:
            yield Finding("shared-file", _pair(owner, outside, name, "are the same file"), (outside, name))


def _same_looks(owner: Mapping[str, Annotation], found: Mapping[str, _Picture]) -> tuple[list[Finding], int]:
    """Look-alikes among different files; and how many were left out as pictures of one person in one split."""
    names: list[str] = []
    seen: set[tuple[bytes, str]] = set()
    for name, picture in found.items():
        key = (picture.sha256, owner[name].split)
        if picture.look is not None and not picture.look.flat and key not in seen:
            seen.add(key)
            names.append(name)
    looks = [found[name].look for name in names]
    splits = {split: number for number, split in enumerate(dict.fromkeys(owner[name].split for name in names))}
    alike = look_alikes(
        np.array([look.hash for look in looks], np.uint64),
        np.frombuffer(b"".join(look.thumbnail for look in looks), np.uint8).reshape(-1, THUMBNAIL**2),
        np.array([splits[owner[name].split] for name in names], np.int64),
    )
    findings, recorded = [], 0
    for index, name in enumerate(names):
        if alike.within[index] >= 0:
            other = names[alike.within[index]]
            if owner[name].identity and owner[name].identity == owner[other].identity:
                recorded += 1
            else:
                findings.append(Finding("look-alike", _pair(owner, other, name, "look the same"), (other, name)))
        if alike.across[index] >= 0:
            other = names[alike.across[index]]
            # Each such pair is met from both sides unless one side has a nearer partner; it is told once.
            if found[other].sha256 != found[name].sha256 and (
                alike.across[alike.across[index]] != index or other < name
            ):
                findings.append(Finding("shared-look", _pair(owner, other, name, "look the same"), (other, name)))
    return findings, recorded


def _pair(owner: Mapping[str, Annotation], first: str, second: str, are: str) -> str:
    a, b = owner[first], owner[second]
    said = f"{first} and {second} {are}"
    if a.split != b.split:
        said += f", in '{a.split}' and in '{b.split}'"
    if a.expression != b.expression:
        said += f", labelled {a.expression} and {b.expression}"
    return said


def _known(annotations: Sequence[Annotation]) -> dict[str, int]:
    known = {name: sum(bool(getattr(annotation, name)) for annotation in annotations) for name in KNOWN}
    details = Counter(
        detail
        for annotation in annotations
        for detail in (
            *(f"units {name}" for name in annotation.units),
            *(f"attribute {a}" for a in annotation.attributes),
        )
    )
    return known | dict(sorted(details.items()))


def _shared_identities(annotations: Sequence[Annotation]) -> Iterator[Finding]:
    """People in a training split and another one. Two splits that are only asked about may show the same people."""
    where: dict[str, dict[str, str]] = {}  # identity -> split -> a picture
    for annotation in annotations:
        if annotation.identity:
            where.setdefault(annotation.identity, {}).setdefault(annotation.split, annotation.picture)
    for identity, splits in where.items():
        if len(splits) > 1 and any(split.lower().startswith("train") for split in splits):
            listed = " and ".join(f"'{split}'" for split in splits)
            yield Finding("shared-identity", f"{identity} is in {listed}", tuple(splits.values())[:2])


def _samples(owner: Mapping[str, Annotation], found: Mapping[str, _Picture], count: int) -> dict[str, tuple[str, ...]]:
    """Always the same pictures of the same dataset, and nobody's choice."""
    by_class: dict[str, list[str]] = {}
    for name, annotation in owner.items():
        if not found[name].problem:
            by_class.setdefault(annotation.expression or "no expression", []).append(name)
    return {
        expression: tuple(sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())[:count])
        for expression, names in sorted(by_class.items())
    }


def _times(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
