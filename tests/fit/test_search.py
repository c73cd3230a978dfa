"""The search finds the largest number that fits, and its neighbour that does not, with few questions."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expllm_jax.fit.search import ROWS, most_rows
from tests.fit.fake_compiler import FakeCompiler


@settings(max_examples=100, deadline=None)
@given(fixed=st.floats(0.1, 20), each=st.floats(0.01, 20))
def test_the_answer_is_exact_and_few_programs_are_compiled(fixed, each):
    compiler = FakeCompiler(fixed, each)
    found = most_rows(compiler.rows)
    fitting = [rows for rows in ROWS if compiler.rows(rows).fits]
    assert found.rows == max(fitting, default=0)
    assert len(found.answers) <= 6
    if found.rows and found.rows < ROWS[-1]:  # its neighbour was asked, too
        assert not found.answers[ROWS[ROWS.index(found.rows) + 1]].fits


def test_memory_that_bends_is_followed():
    class Bent(FakeCompiler):
        def rows(self, rows):
            self._each = 0.1 + 0.02 * rows
            return super().rows(rows)

    compiler = Bent(1.0, 0.0)
    found = most_rows(compiler.rows)
    assert found.rows == max(rows for rows in ROWS if 1.0 + rows * (0.1 + 0.02 * rows) <= 15.75) == 24
    assert len(found.answers) <= 8


def test_where_nothing_fits_the_smallest_is_told():
    found = most_rows(FakeCompiler(20.0, 1.0).rows)
    assert found.rows == 0 and found.best.request.rows == 1


@pytest.mark.parametrize("each", [0.0, 0.001])
def test_where_all_fit_one_question_is_enough(each):
    found = most_rows(FakeCompiler(1.0, each).rows)
    assert found.rows == ROWS[-1] and list(found.answers) == [ROWS[-1]]
