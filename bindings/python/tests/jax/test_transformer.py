"""The second example, short: that it learns, and that what is held out is; and the search of
its benchmark: that no optimizer has luckier draws, and that runs are not done twice."""

import sys
from pathlib import Path

import jax
import numpy as np
import pytest

PYTHON = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(PYTHON / "examples" / "jax"), str(PYTHON / "benches" / "jax")]
import search
import transformer
import tuned_transformer


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
    "name",
    ["SONew, tridiagonal, Nesterov", pytest.param("SONew, pooled band 32", marks=pytest.mark.long)],
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


def test_optimizers_get_the_same_draws():
    def draws(name, *keys):
        tried = search.settings(tuned_transformer.RANGES[name], 10, seed=0)
        return [[setting[key] for key in keys] for setting in tried]

    shared = ("rate", "beta1", "beta2")
    of_adamw = draws("AdamW", *shared)
    assert len(set(map(tuple, of_adamw))) == 10
    for name in set(tuned_transformer.ROWS) - {"Lion"}:
        assert draws(name, *shared) == of_adamw, name
    assert draws("Lion", *shared[1:]) == draws("AdamW", *shared[1:])
    rates = np.array([draws("Lion", "rate"), draws("AdamW", "rate")])
    assert np.allclose(10 * rates[0], rates[1], rtol=1e-2)


def test_a_run_that_is_done_is_read_again(text, tmp_path):
    setting = transformer.SETTINGS["AdamW"]
    results = tuned_transformer.Results(tmp_path, "small", 2)
    results.text = text
    curve = results.run("rerun", "AdamW", setting, 1, by_adam=("characters", "head"))
    again = tuned_transformer.Results(tmp_path, "small", 2)
    assert again.run("rerun", "AdamW", setting, 1, by_adam=("characters", "head")) == curve
    for other in ({"seed": 2}, {"by_adam": ("characters",)}):
        with pytest.raises(tuned_transformer.Missing):
            again.run(**{"kind": "rerun", "name": "AdamW", "setting": setting, "seed": 1, **other})
