"""In which order a face's label and reasoning are asked for, and which of the two decides.

* "label-first", the protocol of the paper: the label, then the text (in layouts where rounds see each other, with the
  label before it). The label's answer decides.
* "reasoning-first": the text, without a label before it. In the layout "branched" the expression that it concludes
  decides; in the others the label is asked for behind the text, and that answer decides.
* "label-only": no text.
"""

from __future__ import annotations

from typing import Literal, get_args

Order = Literal["label-first", "reasoning-first", "label-only"]
ORDERS: tuple[str, ...] = get_args(Order)
