"""Several ways at once: the line that is told is the likeliest of them, and the engine is as sound as before."""

import pytest

from jupyter_sc2.engines import load_engine
from jupyter_sc2.engines.decoding.beam_search import (
    FINISHED_LEAD,
    LENGTH_REWARD,
    OVERTAKE_MARGIN,
    PRUNE_MARGIN,
    Hypothesis,
    common_prefix_length,
    prune,
)
from jupyter_sc2.types import SamplingParams, Token
from tests.support.beams import beam_width
from tests.support.tiny import make_tiny_model
from tests.unit.engines.torch.test_engine import (
    PROMPT,
    generate,
    ids_of,
    never,
    passes,
    plain_greedy,
)

torch = pytest.importorskip("torch")
LINE = SamplingParams(max_tokens=8)
STOP = tuple(range(100, 160))  # so that lines are short


def hypothesis(*steps: tuple[int, float], finished: bool = False) -> Hypothesis:
    made = Hypothesis(None)
    for id, logprob in steps:
        made = made.extend(Token(id, logprob), None, finished=finished)
    return made


# Which are followed


def test_the_most_likely_come_first_up_to_the_beam_width():
    hypotheses = [hypothesis((1, -1.2)), hypothesis((2, -0.9)), hypothesis((3, -1.0))]
    assert [kept.tokens[0].id for kept in prune(hypotheses, 2)] == [2, 3]


def test_hypotheses_far_behind_are_pruned():
    behind = -0.5 - PRUNE_MARGIN
    assert (
        len(
            prune(
                [
                    hypothesis((1, -0.5)),
                    hypothesis((2, behind + 0.1)),
                    hypothesis((3, behind - 0.1)),
                ],
                4,
            )
        )
        == 2
    )


def test_only_close_hypotheses_stay_beside_a_finished_one():
    ended = hypothesis((1, -0.5), finished=True)
    near, far = (
        hypothesis((2, -0.5 - OVERTAKE_MARGIN + 0.1)),
        hypothesis((3, -0.5 - OVERTAKE_MARGIN - 0.1)),
    )
    assert prune([ended, near, far], 4) == [ended, near]


def test_only_the_best_finished_hypothesis_stays():
    ended = [hypothesis((1, -0.5), finished=True), hypothesis((2, -0.6), finished=True)]
    assert prune(ended, 4) == ended[:1]


def test_an_end_is_given_up_once_one_that_goes_on_is_well_ahead():
    running = hypothesis((1, -0.5))
    near = hypothesis((2, -0.5 - FINISHED_LEAD + 0.1), finished=True)
    far = hypothesis((2, -0.5 - FINISHED_LEAD - 0.1), finished=True)
    assert prune([running, near], 4) == [running, near]
    assert prune([running, far], 4) == [running]


def test_each_token_earns_a_reward():
    assert (
        hypothesis((1, -0.5), (2, -0.1)).score
        > hypothesis((1, -0.5)).score
        > hypothesis((1, -0.5), (2, -0.2)).score
    )


def test_an_end_does_not_count_among_those_that_go_on():
    hypotheses = [
        hypothesis((1, -0.5)),
        hypothesis((2, -0.6)),
        hypothesis((3, -0.7), finished=True),
    ]
    assert len(prune(hypotheses, 2)) == 3


def test_the_common_prefix_is_counted_in_tokens():
    assert common_prefix_length([hypothesis((1, -1), (2, -1)), hypothesis((1, -1), (3, -1))]) == 1
    assert (
        common_prefix_length([hypothesis((1, -1), (2, -1)), hypothesis((1, -1), finished=True)])
        == 1
    )


# What is decoded


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    folder = make_tiny_model(tmp_path_factory.mktemp("models") / "tiny", context=256)
    engine = load_engine(str(folder), precision="fp32")
    with beam_width(engine, 4):
        yield engine
    engine.close()


def likelihood(engine, prompt, ids) -> float:
    """Of these ids, by the model itself without any cache."""
    with torch.inference_mode():
        logits = engine._model(input_ids=torch.tensor([[*prompt, *ids]]), use_cache=False).logits[0]
    said = logits[len(prompt) - 1 : -1].log_softmax(-1)
    return float(said[range(len(ids)), ids].sum())


def likeliest_line(engine, prompt, hypotheses: int) -> list[int]:
    """The same search without cache, mask or engine, each way read from its beginning."""
    kept = [Hypothesis(None)]
    while any(not one.finished and len(one.tokens) < LINE.max_tokens for one in kept):
        onward = [one for one in kept if one.finished]
        for one in kept:
            if one.finished:
                continue
            ids = [*prompt, *ids_of(one.tokens)]
            with torch.inference_mode():
                said = engine._model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
            values, tokens = said.log_softmax(-1).topk(hypotheses)
            for id, value in zip(tokens.tolist(), values.tolist(), strict=True):
                onward.append(one.extend(Token(id, value), None, finished=id in STOP))
        kept = prune(onward, hypotheses)
    return ids_of(kept[0].tokens)


PROMPTS = [[*PROMPT, id] for id in range(20, 60)]


def test_the_line_is_that_of_a_beam_search_without_a_cache(engine):
    for prompt in PROMPTS:
        tokens = generate(engine, prompt, LINE, STOP)
        assert ids_of(tokens) == likeliest_line(engine, prompt, 4)


def test_some_lines_are_better_than_the_greedy_one_and_hardly_any_worse(engine):
    gains = []
    for prompt in PROMPTS:
        greedy = plain_greedy(engine, prompt, LINE.max_tokens)
        ends = [at for at, id in enumerate(greedy) if id in STOP]
        greedy = greedy[: ends[0] + 1] if ends else greedy
        found = ids_of(generate(engine, prompt, LINE, STOP))
        gain = likelihood(engine, prompt, found) - likelihood(engine, prompt, greedy)
        gains.append(gain + LENGTH_REWARD * (len(found) - len(greedy)))
    assert sum(gain > 0.1 for gain in gains) > 10 * sum(gain < -0.1 for gain in gains)


def test_tokens_tell_their_own_probability(engine):
    for prompt in PROMPTS[:10]:
        tokens = generate(engine, prompt, LINE, STOP)
        said = sum(token.logprob for token in tokens)
        assert said == pytest.approx(likelihood(engine, prompt, ids_of(tokens)), abs=1e-3)
        assert all(len(token.alternatives) == 2 for token in tokens)


def test_a_single_hypothesis_is_decoded_greedily(engine, monkeypatch):
    monkeypatch.setattr(
        "jupyter_sc2.engines.decoding.loop.prune", lambda hypotheses, most: list(hypotheses)[:1]
    )
    engine.prefill(PROMPT, never)
    lengths = passes(engine)
    tokens = generate(engine, PROMPT)
    assert lengths == [1] * 7
    assert ids_of(tokens) == plain_greedy(engine, PROMPT, 8)


def test_the_cache_holds_only_the_winner_of_a_search(engine):
    for prompt in PROMPTS[:10]:
        tokens = ids_of(generate(engine, prompt, LINE, STOP))
        assert engine._cache.ids == [*prompt, *tokens[:-1]]
        longer = [*prompt, *tokens, 7]
        with beam_width(engine, 1):
            assert ids_of(generate(engine, longer)) == plain_greedy(engine, longer, 8)


@pytest.mark.parametrize("taken", [0, 1, 2, 3])
def test_a_stream_that_is_closed_during_a_search_leaves_a_valid_cache(engine, taken):
    for prompt in PROMPTS[:10]:
        stream = engine.generate(prompt, LINE, STOP, never)
        for _, _ in zip(range(taken), stream, strict=False):
            pass
        stream.close()
        assert ids_of(generate(engine, prompt, LINE, STOP)) == likeliest_line(engine, prompt, 4)


def test_a_cancelled_search_ends_at_the_next_pass(engine):
    lengths = passes(engine)
    for prompt in PROMPTS[:5]:
        engine.prefill(prompt, never)
        lengths.clear()
        generate(engine, prompt, LINE, STOP, cancelled=lambda: len(lengths) >= 2)
        assert len(lengths) <= 2
        assert ids_of(generate(engine, prompt, LINE, STOP)) == likeliest_line(engine, prompt, 4)


@pytest.mark.parametrize("most", [1, 2, 3, 5])
def test_no_hypothesis_exceeds_the_maximum_of_tokens(engine, most):
    few, lengths = SamplingParams(max_tokens=most), passes(engine)
    for prompt in PROMPTS:
        engine.prefill(prompt, never)
        lengths.clear()
        assert len(generate(engine, prompt, few, STOP)) <= most
        assert len(lengths) < most


def test_all_hypotheses_satisfy_the_constraint(engine):
    for prompt in PROMPTS[:10]:
        tokens = generate(engine, prompt, LINE, STOP, suffix=b"val")
        assert engine.decode_bytes(ids_of(tokens)).startswith(b"val")


def test_sampling_uses_no_beam_search(engine):
    drawn = SamplingParams(max_tokens=6, temperature=1.0, seed=1)
    with beam_width(engine, 1):
        expected = ids_of(generate(engine, PROMPT, drawn))
    assert ids_of(generate(engine, PROMPT, drawn)) == expected
