"""What interventions came to: kept in lines, counted, shown."""

from __future__ import annotations

import io
import json
import math

import numpy as np
import pytest
from PIL import Image

from expllm_jax.errors import ExpllmError
from expllm_jax.evaluate import wilson
from expllm_jax.evaluate.interventions import (
    Base,
    Intervention,
    Outcome,
    Said,
    UnitF1,
    base_line,
    counterfactual_rates,
    faithfulness_lines,
    faithfulness_section,
    mask_rates,
    outcome_line,
    plot_counterfactuals,
    plot_masks,
    read_outcomes,
    settings_line,
    text_rates,
    unit_f1,
)

SETTINGS = {"split": "hard", "step": 40}


def said(label="Fear", concluded="Fear", stated=None, named=(), probability=math.nan) -> Said:
    return Said(label, concluded, stated or {}, named, probability, "text")


def outcome(
    kind, edit, unit, after: Said, *, before: Said | None = None, record="r", person="p", instead=""
) -> Outcome:
    base = Base(record, person, before or said(), 0.9)
    return Outcome(Intervention(kind, edit, record, unit, instead), base, after)


def test_lines_give_back_what_was_written():
    one = outcome("mask", "unit", "AU1", said(None, None), before=said(stated={"AU1": "strong", "AU4": None}))
    two = outcome("text", "swap", "AU1", said(named=("AU4",), probability=0.25), before=one.base.said, instead="AU4")
    content = "\n".join([settings_line(SETTINGS), base_line(one.base), outcome_line(one), outcome_line(two), ""])
    assert all(json.loads(line) for line in content.splitlines())
    bases, [first, second] = read_outcomes(content, SETTINGS, "here")
    assert first.done == one.done and second.done == two.done and second.said == two.said
    assert bases["r"].said.stated == {"AU1": "strong", "AU4": None} and math.isnan(first.said.probability)
    unfinished = content + outcome_line(two)[:30]
    assert len(read_outcomes(unfinished, SETTINGS, "here")[1]) == 2
    assert read_outcomes(content, {**SETTINGS, "step": 41}, "here") is None


def test_a_damaged_line_is_named():
    with pytest.raises(ExpllmError, match=r"^here, line 2: no outcome"):
        read_outcomes(settings_line(SETTINGS) + '\n{"kind": "mask"}\n', SETTINGS, "here")


@pytest.mark.parametrize(
    ("edit", "before", "after", "right"),
    [
        ("added", {}, {"AU1": "slight"}, True),
        ("added", {"AU1": "slight"}, {"AU1": "strong"}, True),
        ("added", {"AU1": "strong"}, {"AU1": "strong"}, False),
        ("added", {"AU1": "strong"}, {}, False),
        ("added", {}, {"AU1": None}, True),
        ("removed", {"AU1": "strong"}, {}, True),
        ("removed", {"AU1": "strong"}, {"AU1": "moderate"}, True),
        ("removed", {"AU1": "slight"}, {"AU1": "strong"}, False),
        ("removed", {}, {}, False),
    ],
)
def test_which_way_a_statement_moves(edit, before, after, right):
    moved = outcome("counterfactual", edit, "AU1", said(stated=after), before=said(stated=before))
    rates = counterfactual_rates([moved], {"hard": {}}, "hard")
    assert rates["all"]["right"]["value"] == right
    assert rates["all"][f"right_{edit}"]["n"] == 1 and rates["reached"] is None


def test_the_bar_is_for_units_that_held_out_texts_state_well():
    strong = said(stated={"AU1": "strong", "AU4": "strong"})
    outcomes = [
        *(outcome("counterfactual", "removed", "AU1", said(stated={"AU4": "strong"}), before=strong, person=f"p{k}")
          for k in range(9)),
        outcome("counterfactual", "removed", "AU1", strong, before=strong, person="p9"),
        *(outcome("counterfactual", "removed", "AU4", said(stated={"AU4": "strong"}), before=strong, person=f"p{k}")
          for k in range(10)),
    ]  # fmt: skip
    f1 = {"mild": {"AU4": UnitF1(0.9, 0.95, 40)}, "hard": {"AU1": UnitF1(0.85, 0.6, 20), "AU4": UnitF1(0.7, 0.8, 30)}}
    rates = counterfactual_rates(outcomes, f1, "hard")
    right = rates["well_stated"]["right"]
    assert (right["value"], right["n"]) == (0.9, 10)
    assert (right["low"], right["high"]) == pytest.approx(wilson(9, 10))  # one picture of each person
    assert rates["reached"] is True and rates["all"]["right"]["value"] == 0.45
    assert rates["units"]["AU4"]["f1"] == {"mild": 0.9, "hard": 0.7} and not rates["units"]["AU4"]["well_stated"]
    assert rates["others_kept"]["value"] == 0.5  # where AU4 was to go, AU1 went
    assert counterfactual_rates(outcomes, {"hard": f1["mild"]}, "hard")["reached"] is False


def test_masks_are_compared_in_pairs():
    before = said(stated={"AU1": "strong"}, probability=0.8)
    gone, kept = said("Anger", stated={}, probability=0.3), said(stated={"AU1": "slight"}, probability=0.7)
    outcomes = []
    for k in range(20):
        outcomes.append(outcome("mask", "unit", "AU1", gone if k < 15 else kept, before=before, record=f"r{k}",
                                person=f"p{k}"))  # fmt: skip
        outcomes.append(outcome("mask", "elsewhere", "AU1", gone if k < 1 else kept, before=before, record=f"r{k}",
                                person=f"p{k}"))  # fmt: skip
    alone = outcome("mask", "unit", "AU1", gone, before=before, record="alone")
    rates = mask_rates([*outcomes, alone])
    assert rates["pairs"] == 20
    assert rates["unit"]["unstated"]["value"] == 0.75 and rates["elsewhere"]["unstated"]["value"] == 0.05
    gap = rates["difference"]["unstated"]
    assert gap["value"] == pytest.approx(0.7) and 0.3 < gap["low"] < 0.7 < gap["high"] < 0.95
    assert rates["unit"]["label_flips"]["value"] == 0.75 and rates["unit"]["conclusion_flips"]["value"] == 0
    assert rates["unit"]["probability_drop"]["value"] == pytest.approx(0.75 * 0.5 + 0.25 * 0.1)
    assert rates["units"]["AU1"]["difference"]["value"] == pytest.approx(0.7)


def test_edited_texts_are_compared_with_the_control():
    before = said(named=("AU1", "AU5"), stated={"AU1": "strong"})
    follows = said(None, "Anger", named=("AU9",), probability=0.1)
    stays = said(None, "Fear", named=("AU1",), probability=0.9)
    outcomes = [
        outcome("text", "swap", "AU1", follows, before=before, person="a", instead="AU9"),
        outcome("text", "swap", "AU12", stays, before=before, person="b", instead="AU9"),
        outcome("text", "delete", "AU1", stays, before=before, person="a"),
        outcome("text", "reorder", "AU1", stays, before=before, person="a"),
        outcome("text", "reorder", "AU1", stays, before=before, person="b"),
        outcome("text", "transplant", "", follows, before=before, person="a", instead="Anger"),
    ]
    rates = text_rates(outcomes)
    assert rates["swap"]["conclusion_flips"]["value"] == 0.5 and rates["reorder"]["conclusion_flips"]["value"] == 0
    assert rates["swap"]["flips_beyond_control"]["value"] == 0.5
    assert rates["swap"]["probability_drop"]["value"] == pytest.approx(0.4)
    assert rates["swap"]["follows"]["n"] == 1 and rates["swap"]["follows"]["value"] == 1  # AU12 was not argued with
    assert rates["swap"]["takes_up"]["value"] == 0.5
    assert rates["swap"]["typical"]["n"] == rates["swap"]["unrelated"]["n"] == 1  # AU1 belongs to fear, AU12 does not
    assert rates["delete"]["follows"]["value"] == 0 and rates["transplant"]["follows"]["value"] == 1
    assert rates["band"]["conclusion_flips"] == {"value": None, "low": None, "high": None, "n": 0}


def test_f1_of_units_and_of_reciting(make_face):
    faces = [
        make_face(units={"AU6": 0.5, "AU12": 0.9}, stated={"AU12": "strong"}),
        make_face(units={"AU12": 0.0}, stated={"AU12": "strong", "AU4": None}),
        make_face(units={"AU12": 0.4}, stated={}, expression="Fear"),
    ]
    found = unit_f1(faces)
    assert list(found) == ["AU6", "AU12"]
    assert found["AU12"].f1 == 0.5 and found["AU12"].present == 2
    assert found["AU12"].recited == 0.5  # said of both happy faces, one of which shows it, and not of the third
    assert found["AU6"].f1 == 0 and found["AU6"].recited == pytest.approx(2 / 3)


def _metrics() -> dict:
    before = said(stated={"AU1": "strong"}, named=("AU1",), probability=0.8)
    gone = said("Anger", "Anger", probability=0.3)
    mask = [outcome("mask", edit, "AU1", gone, before=before, record=f"r{k}", person=f"p{k}")
            for edit in ("unit", "elsewhere") for k in range(3)]  # fmt: skip
    renders = [outcome("counterfactual", "removed", "AU1", gone, before=before, person=f"p{k}") for k in range(3)]
    return {
        "split": "<hard>",
        "fill": "mean",
        "people": 3,
        "mask": {**mask_rates(mask), "unplaced": 2},
        "text": text_rates([outcome("text", "delete", "AU1", gone, before=before)]),
        "counterfactual": counterfactual_rates(renders, {"hard": {"AU1": UnitF1(0.9, math.nan, 3)}}, "hard"),
    }


def test_metrics_are_json_without_nan_and_are_shown():
    metrics = json.loads(json.dumps(_metrics(), allow_nan=False))
    page = faithfulness_section(metrics)
    assert "The goal is reached" in page and "&lt;hard&gt;" in page and "<hard>" not in page and "2 more" in page
    assert page.count("<figure>") == 2 and page.count("<table>") == 3
    lines = "\n".join(faithfulness_lines(metrics))
    assert "100 %" in lines.replace("\N{NO-BREAK SPACE}", " ") and "the conclusion changes" in lines
    only = faithfulness_section({**{key: metrics[key] for key in ("split", "fill", "people", "text")}})
    assert "An observation edited" in only and "covered" not in only


def test_plots_are_pictures():
    metrics = _metrics()
    for content in (plot_counterfactuals(metrics["counterfactual"]), plot_masks(metrics["mask"])):
        pixels = np.asarray(Image.open(io.BytesIO(content)).convert("L"))
        assert pixels.shape[1] > 500 and pixels.std() > 5
    with pytest.raises(ExpllmError, match="nothing to draw"):
        plot_masks({"units": {}})
