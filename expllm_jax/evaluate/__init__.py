"""How good a run is, and how sure we are: metrics, intervals, and the report.

Everything starts from a list of `EvaluatedFace`, one picture's truth beside the model's own answer. `score` judges the
labels, `score_units` the action units that the texts state, `summarise` both, per split, with 95 % intervals over
people; `write_metrics` and `write_report` leave the numbers and the page behind.
"""

from __future__ import annotations

from expllm_jax.evaluate.bootstrap import Interval, bootstrap, cluster_totals, wilson
from expllm_jax.evaluate.evaluated import EvaluatedFace
from expllm_jax.evaluate.gallery import FaceView, choose_faces
from expllm_jax.evaluate.model_card import ModelCard, render_model_card, write_model_card
from expllm_jax.evaluate.plots import DARK, LIGHT, plot_confusion, plot_curves, plot_units, read_history
from expllm_jax.evaluate.report import ReportInput, render_report, write_report
from expllm_jax.evaluate.scores import ClassScore, Scores, conclusion_accuracy, conclusion_agreement, score
from expllm_jax.evaluate.summary import Metrics, SplitSummary, summarise, summarise_split, write_metrics
from expllm_jax.evaluate.units import CLEARLY_PRESENT, UnitRow, UnitScores, score_units

__all__ = [
    "CLEARLY_PRESENT",
    "DARK",
    "LIGHT",
    "ClassScore",
    "EvaluatedFace",
    "FaceView",
    "Interval",
    "Metrics",
    "ModelCard",
    "ReportInput",
    "Scores",
    "SplitSummary",
    "UnitRow",
    "UnitScores",
    "bootstrap",
    "choose_faces",
    "cluster_totals",
    "conclusion_accuracy",
    "conclusion_agreement",
    "plot_confusion",
    "plot_curves",
    "plot_units",
    "read_history",
    "render_model_card",
    "render_report",
    "score",
    "score_units",
    "summarise",
    "summarise_split",
    "wilson",
    "write_metrics",
    "write_model_card",
    "write_report",
]
