"""Data sets of videos with action units: DISFA and BP4D frame by frame, CASME II and SAMM by their coded frames."""

from __future__ import annotations

from collections.abc import Mapping

from expllm_jax.sources.coding_tables import CodedClips
from expllm_jax.sources.dataset import Dataset, Layout
from expllm_jax.sources.frame_labels import FrameLabels, UnitFiles, UnitTables

# The folds of ME-GraphAU, which papers since have used; a fold is tested after training on the other two.
DISFA_FOLDS: Mapping[str, str] = {
    f"SN{number:03}": f"fold{fold}"
    for fold, numbers in enumerate(
        (
            (2, 10, 1, 26, 27, 32, 30, 9, 16),
            (13, 18, 11, 28, 12, 6, 31, 21, 24),
            (3, 29, 23, 25, 8, 5, 7, 17, 4),
        ),
        start=1,
    )
    for number in numbers
}
"""DISFA's 27 subjects -> fold."""

_DISFA_LABELS = UnitFiles(
    "ActionUnit_Labels", units=(1, 2, 4, 5, 6, 9, 12, 15, 17, 20, 25, 26), file_name="{clip}_au{unit}.txt"
)


def _disfa(*shifts: int) -> FrameLabels:
    return FrameLabels(_DISFA_LABELS, pictures="img/{subject}", shifts=shifts, split_of=DISFA_FOLDS)


DISFA = Dataset(
    name="disfa",
    title="DISFA (Denver Intensity of Spontaneous Facial Action)",
    licence="Non-commercial research under a signed agreement: mohammadmahoor.com/disfa",
    layouts=(
        Layout(
            "frames",
            _disfa(-1, 0),
            checked=False,
            notes="how the pictures of a clip are counted is seen from their numbers",
            instead_of=("frames-from-0", "frames-from-1"),
        ),
        Layout("frames-from-0", _disfa(-1), checked=False, notes="label frame 1 is 0.png"),
        Layout("frames-from-1", _disfa(0), checked=False, notes="label frame 1 is 1.png"),
    ),
    splits=("fold1", "fold2", "fold3"),
)

BP4D = Dataset(
    name="bp4d",
    title="BP4D-Spontaneous (41 subjects, 8 tasks)",
    licence="Research under an agreement with Binghamton University: cs.binghamton.edu/~lijun/Research/3DFE",
    layouts=(
        Layout(
            "occurrence",
            FrameLabels(
                UnitTables("AUCoding/AU_OCC", clip_name=r"(?P<subject>[FM]\d{3})_(?P<task>T\d)"),
                pictures="{subject}/{task}",
                every_picture=False,
            ),
            checked=False,
            notes="9 is unknown; a present unit is 1.0, for the tables have no intensities",
        ),
    ),
)

_CASME2_COLUMNS = {
    "subject": "Subject",
    "clip": "Filename",
    "onset": "OnsetFrame",
    "apex": "ApexFrame",
    "units": "Action Units",
    "emotion": "Estimated Emotion",
}
_SAMM_COLUMNS = {
    "subject": "Subject",
    "clip": "Filename",
    "onset": "Onset Frame",
    "apex": "Apex Frame",
    "units": "Action Units",
    "emotion": "Estimated Emotion",
}


def _casme2(pictures: str, *frames: str) -> CodedClips:
    return CodedClips(
        "CASME2-coding-20140508.xlsx", _CASME2_COLUMNS, f"{pictures}/sub{{subject:02}}/{{clip}}", "casme2", frames
    )


_ONSET = ("cropped-onset", "raw-onset")

CASME2 = Dataset(
    name="casme2",
    title="CASME II (micro-expressions, 26 subjects)",
    licence="Research under a signed agreement: casme.psych.ac.cn/casme/e2",
    layouts=(
        Layout("cropped", _casme2("Cropped", "apex"), checked=False, instead_of=("raw", *_ONSET)),
        Layout("raw", _casme2("CASME2-RAW", "apex"), checked=False, instead_of=_ONSET),
        Layout("cropped-onset", _casme2("Cropped", "onset", "apex"), checked=False),
        Layout("raw-onset", _casme2("CASME2-RAW", "onset", "apex"), checked=False),
    ),
    counts={"": {"Disgust": 63, "Happiness": 32, "Surprise": 25, "Sadness": 7, "Fear": 2}},
)


def _samm(*frames: str) -> CodedClips:
    return CodedClips("SAMM_Micro_FACS_Codes_v2.xlsx", _SAMM_COLUMNS, "{subject:03}/{clip}", "samm", frames)


SAMM = Dataset(
    name="samm",
    title="SAMM (Spontaneous Actions and Micro-Movements, 32 subjects)",
    licence="Research under an agreement with Manchester Metropolitan University: personalpages.manchester.ac.uk/samm",
    layouts=(
        Layout("frames", _samm("apex"), checked=False, instead_of=("frames-onset",)),
        Layout("frames-onset", _samm("onset", "apex"), checked=False),
    ),
    counts={
        "": {
            "Anger": 57,
            "Happiness": 26,
            "Surprise": 15,
            "Contempt": 12,
            "Disgust": 9,
            "Fear": 8,
            "Sadness": 6,
        }
    },
)

FRAME_DATASETS: tuple[Dataset, ...] = (DISFA, BP4D, CASME2, SAMM)
"""What this module knows."""
