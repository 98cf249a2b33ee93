"""The second example, short: that it learns, and that what is held out is."""

import sys
from pathlib import Path

import jax
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "jax"))
import transformer


@pytest.fixture(scope="module")
def text():
    return transformer.Text()


def test_no_paragraph_is_on_both_sides(text):
    def paragraphs(coded):
        decoded = "".join(text.characters[i] for i in coded)
        # The one that the cut goes through is on both.
        return [x for x in decoded.split("\n\n") if len(x) > 40]

    held_out = paragraphs(np.append(text.held_out[:, :-1].ravel(), text.held_out[-1, -1]))
    both = set(paragraphs(text.train)) & set(held_out)
    assert len(held_out) > 50 and not both


def test_a_prediction_does_not_see_what_it_predicts(text):
    params = transformer.init(0, len(text.characters))
    windows, logits = text.held_out[:2].copy(), jax.jit(transformer.logits)
    before = logits(params, windows[:, :-1])
    windows[:, 40:] = 0
    after = logits(params, windows[:, :-1])
    assert np.array_equal(before[:, :40], after[:, :40])
    assert not np.array_equal(before[:, 40:], after[:, 40:])


@pytest.mark.parametrize(
    "name", ["SONew, tridiagonal", pytest.param("SONew, pooled band 32", marks=pytest.mark.long)]
)
def test_it_learns(text, name):
    steps = 40
    run = transformer.Run(text, name, transformer.SETTINGS[name], steps, seed=1)
    # Nothing is known at first: each character is about as likely as another.
    assert abs(run.loss() - np.log(len(text.characters))) < 0.7
    curve, _ = transformer.train(run, every=steps)
    # What is learnt by then is more than how often each character occurs.
    shares = np.bincount(text.held_out.ravel()) / text.held_out.size
    entropy = -sum(p * np.log(p) for p in shares if p > 0)
    assert curve[-1][1] < entropy
