"""Learning in context against fine-tuning: the measures, the fine-tuning itself, and networks by hand."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from scipy.stats import kendalltau
from torch import Tensor, nn
from torch.nn import functional as F

from iclkit.analysis.inside import fine_tuning
from iclkit.analysis.inside.causal_model import PromptedCausalModel
from iclkit.analysis.inside.descent_case import DescentCase
from iclkit.analysis.inside.fine_tuning import compare_fine_tuning
from iclkit.analysis.inside.fine_tuning_comparison import SETTINGS
from iclkit.analysis.inside.fine_tuning_scores import (
    attention_in_context,
    attention_to_training,
    kendall,
    random_sim_aou,
    rec2ftp,
    shuffled_sim_aou,
    sim_am,
    sim_aou,
)
from iclkit.analysis.inside.prompted import fine_tune, read
from iclkit.analysis.inside.prompted_networks import PromptedRegressor, PromptedTokens
from iclkit.analysis.inside.token_prompts import TokenEpisode, token_prompts
from iclkit.compiler import gradient_descent
from iclkit.errors import UserError
from iclkit.networks import BlockConfig
from iclkit.regression import InContextRegressor
from iclkit.sequences import TokenTransformer


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# The measures


def test_rec2ftp_counts_among_what_fine_tuning_sets_right() -> None:
    zero_shot = torch.tensor([0, 0, 0, 0, 0, 1, 1, 0]) > 0
    in_context = torch.tensor([1, 1, 0, 1, 1, 0, 1, 0]) > 0
    fine_tuned = torch.tensor([1, 1, 1, 1, 0, 1, 0, 0]) > 0
    found = rec2ftp(zero_shot, in_context, fine_tuned)
    assert float(found.mean) == 3 / 4
    assert 0 <= float(found.low) < 3 / 4 < float(found.high) <= 1
    assert rec2ftp(zero_shot, in_context, zero_shot).mean.isnan()


def test_sim_aou_is_the_cosine_of_updates_of_directions() -> None:
    before, context, tuned = normal(3, 5, 4, 16)
    found = sim_aou(before, context, tuned)
    assert found.shape == (5, 4)
    unit = [part / part.norm(dim=-1, keepdim=True) for part in (before, context, tuned)]
    one, other = unit[1] - unit[0], unit[2] - unit[0]
    expected = (one * other).sum(-1) / (one.norm(dim=-1) * other.norm(dim=-1))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)
    # Lengths do not count; where nothing has changed there is no similarity.
    torch.testing.assert_close(sim_aou(3 * before, 0.5 * context, 7 * tuned), found, rtol=0, atol=1e-14)
    assert (sim_aou(before, context, before) == 0).all()
    torch.testing.assert_close(sim_aou(0 * before, 1e-30 * context, context), torch.ones(5, 4).double())


def test_random_updates_have_the_mean_0_also_where_all_coordinates_move_together() -> None:
    generator = torch.Generator().manual_seed(0)
    before, context = torch.zeros(4000, 32), torch.ones(4000, 32)
    # The standard error is 1/√(32 · 4000) = 0.0028; five of them, a false alarm in two million.
    assert abs(random_sim_aou(before, context, generator).mean()) < 0.014
    # The published U[0, 1): mean 1/2 against a root mean square of √(1/3).
    uniform = torch.rand(4000, 32, generator=generator)
    assert sim_aou(before, context, uniform).mean() > 0.8


def test_shuffled_updates_are_the_same_numbers_in_another_order() -> None:
    before, tuned = torch.zeros(2000, 24), torch.randn(2000, 24, generator=torch.Generator().manual_seed(1))
    found = shuffled_sim_aou(before, tuned, tuned, torch.Generator().manual_seed(0))
    # Mean 0 up to that of the numbers themselves, 1/24; standard error 1/√(24 · 2000) = 0.0046.
    assert abs(found.mean() - 1 / 24) < 0.023
    assert (found < 0.999).all()


def test_sim_am_is_a_mean_over_heads_and_of_signs_for_a_single_token() -> None:
    one, other = normal(2, 6, 3, 5)
    expected = F.cosine_similarity(one, other, dim=-1).mean(-1)
    torch.testing.assert_close(sim_am(one, other), expected, rtol=0, atol=1e-14)
    one, other = torch.tensor([2.0, -0.1, 3.0, 1.0]), torch.tensor([1.0, -4.0, -2.0, 5.0])
    assert float(sim_am(one[:, None], other[:, None])) == 0.5


@pytest.mark.parametrize("levels", [3, 1000])
def test_kendall_is_scipys(levels: int) -> None:
    generator = torch.Generator().manual_seed(levels)
    one, other = torch.randint(levels, (2, 4, 3, 12), generator=generator).double()
    found = kendall(one, other)
    pairs = zip(one.flatten(0, 1), other.flatten(0, 1), strict=True)
    expected = torch.tensor([kendalltau(a, b)[0] for a, b in pairs], dtype=torch.float64).view(4, 3)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert (kendall(torch.ones(2, 5), normal(2, 5).float()) == 0).all()


def test_attention_is_shared_out_among_examples() -> None:
    scores = normal(2, 3, 6)
    owner = torch.tensor([0, 0, -2, 1, 2, -1])
    found = attention_in_context(scores, owner, 3)
    weights = scores.sum(1)[:, [0, 1, 3, 4]].softmax(-1)
    torch.testing.assert_close(found, torch.stack([weights[:, :2].sum(1), weights[:, 2], weights[:, 3]], 1))
    training, query = normal(2, 4, 2, 5), normal(2, 5, seed=1)
    shares = torch.einsum("bnti,bi->bnt", training, query).flatten(1).softmax(-1).view(2, 4, 2).sum(-1)
    torch.testing.assert_close(attention_to_training(training, query), shares)
    counted = torch.ones(2, 4, 2) > 0
    counted[:, :, 0] = False
    alone = torch.einsum("bni,bi->bn", training[:, :, 1], query).softmax(-1)
    torch.testing.assert_close(attention_to_training(training, query, counted), alone)


# Networks by hand in which learning in context is a step of gradient descent


@pytest.fixture(scope="module")
def descent() -> DescentCase:
    return DescentCase(demonstrations=20)


def test_where_context_is_descent_by_construction_the_measures_say_so(descent: DescentCase) -> None:
    prompts = descent.prompts(256, torch.Generator().manual_seed(0))
    found = compare_fine_tuning(descent.network(), prompts, rate=0.3)
    assert (found.right["fine-tuned"] & ~found.right["zero-shot"]).sum() > 50
    assert float(found.rec2ftp.mean) == 1.0
    assert found.sim_aou.values.min() > 0.999999
    assert found.sim_am.values.min() > 0.999999
    assert found.kendall.values.min() == 1.0
    for name in SETTINGS:
        assert found.losses[name].shape == (256,)
    # 256 random directions of an update in 40 dimensions: standard error 0.01; five of them.
    assert abs(found.random_sim_aou.mean) < 0.05
    assert abs(found.random_kendall.mean) < 0.05


def test_an_epoch_of_fine_tuning_adds_what_the_context_adds(descent: DescentCase) -> None:
    network, prompts = descent.network(), descent.prompts(256, torch.Generator().manual_seed(0))
    tuned = fine_tune(network, prompts, rate=0.2)
    (before,), (context,), (after,) = (
        read(network, weights, tokens, shared).attended
        for weights, tokens, shared in (
            (network.moved, prompts.alone, True),
            (network.moved, prompts.in_context, True),
            (tuned.weights, prompts.alone, False),
        )
    )
    assert (before == 0).all()
    torch.testing.assert_close(0.2 * (20 + 1) * context, after, rtol=0, atol=1e-14)
    shuffled = shuffled_sim_aou(before, context, after, torch.Generator().manual_seed(0))
    # Coordinates sum to 0, so the mean over all orders is 0; standard error 1/√(39 · 256) = 0.01, five of them.
    assert abs(shuffled.mean()) < 0.05


def test_wrong_demonstrations_are_told_from_right_ones(descent: DescentCase) -> None:
    """The measures can fail: the network sees other labels in context than it is trained on."""
    network, prompts = descent.network(), descent.prompts(256, torch.Generator().manual_seed(0))
    other = descent.prompts(256, torch.Generator().manual_seed(7))
    mixed = replace(prompts, in_context=torch.cat([other.in_context[:, :-1], prompts.alone], 1))
    found = compare_fine_tuning(network, mixed, rate=0.3)
    assert abs(found.sim_aou.mean) < 0.15
    assert float(found.rec2ftp.mean) < 0.4


# Fine-tuning


def regressor(**changes: Any) -> InContextRegressor:
    arguments: dict[str, Any] = {"dim": 3, "width": 12, "layers": 2, "heads": 2, "max_points": 8, **changes}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        return InContextRegressor(**arguments).double()


NETWORKS: dict[str, dict[str, Any]] = {
    "interleaved": {},
    "no bias, tied": {"bias": False, "tied": True},
    "learned positions": {"positions": "learned"},
    "joined": {"tokens": "joined"},
    "start token": {"tokens": "joined", "start_token": True},
    "unseen query": {"tokens": "joined", "start_token": True, "query_sees_itself": False},
    "not causal": {"tokens": "joined", "causal": False},
    "mixture": {"components": 2},
    "linear": {"attention": "linear"},
    "kernel": {"attention": "kernel", "mlp_ratio": 0},
}


def plain_fine_tuning(network: InContextRegressor, x: Tensor, y: Tensor, rate: float) -> InContextRegressor:
    """What fine-tuning is, for one episode, written down with torch's own SGD."""
    tuned = copy.deepcopy(network)
    tuned.requires_grad_(False)
    rows: list[tuple[nn.Parameter, Tensor]] = []
    for name, parameter in tuned.named_parameters():
        if "attention.qkv" in name:
            parameter.requires_grad_(True)
            rows.append((parameter, parameter.detach()[: len(parameter) // 3].clone()))
    optimizer = torch.optim.SGD([parameter for parameter, _ in rows], lr=rate)
    for point in range(len(x) - 1):
        optimizer.zero_grad()
        (answer(tuned, x[:0], y[:0], x[point]) - y[point]).square().backward()
        optimizer.step()
        with torch.no_grad():
            for parameter, queries in rows:
                parameter[: len(queries)] = queries
    return tuned


def answer(network: InContextRegressor, x: Tensor, y: Tensor, query: Tensor) -> Tensor:
    said = network.queries(x[None], y[None], query[None, None, None], torch.tensor([len(x)]))[0, 0, 0]
    if not network.components:
        return said[0]
    logits, means, _ = said.chunk(3)
    return (logits.softmax(-1) * means).sum()


@pytest.mark.parametrize("name", NETWORKS)
def test_every_episode_is_fine_tuned_as_if_it_were_alone(name: str) -> None:
    network = regressor(**NETWORKS[name])
    before = {key: value.clone() for key, value in network.state_dict().items()}
    x, y = normal(3, 6, 3), normal(3, 6, seed=1)
    prompted = PromptedRegressor(network, tolerance=0.5)
    prompts = prompted.prompts(x, y)
    found = compare_fine_tuning(prompted, prompts, rate=0.02)
    losses = {
        "zero-shot": [answer(network, a[:0], b[:0], a[-1]) for a, b in zip(x, y, strict=True)],
        "in context": [answer(network, a[:-1], b[:-1], a[-1]) for a, b in zip(x, y, strict=True)],
        "fine-tuned": [
            answer(plain_fine_tuning(network, a, b, 0.02), a[:0], b[:0], a[-1])
            for a, b in zip(x, y, strict=True)
        ],
    }
    for setting, answers in losses.items():
        expected = (torch.stack(answers).detach() - y[:, -1]).square()
        torch.testing.assert_close(found.losses[setting], expected, rtol=0, atol=1e-12)
        assert (found.right[setting] == (expected <= 0.5)).all()
    assert (found.losses["fine-tuned"] - found.losses["zero-shot"]).abs().max() > 1e-4
    assert all((value == before[key]).all() for key, value in network.state_dict().items())
    assert not network.listening
    assert found.layers == ("blocks.0", "blocks.1")


def test_what_is_seen_is_what_hooks_see() -> None:
    network = regressor()
    x, y = normal(4, 5, 3), normal(4, 5, seed=1)
    prompted = PromptedRegressor(network, tolerance=0.5)
    seen = read(prompted, prompted.moved, prompted.prompts(x, y).in_context, shared=True)
    output, cache = network.run_with_cache(x, y)
    torch.testing.assert_close(seen.output, output[:, -1], rtol=0, atol=1e-12)
    for layer in range(2):
        attended, pattern, q = (
            cache[f"blocks.{layer}.{name}"] for name in ("attention_out", "attention.pattern", "attention.q")
        )
        torch.testing.assert_close(seen.attended[layer], attended[:, -1], rtol=0, atol=1e-12)
        torch.testing.assert_close(seen.scores[layer].softmax(-1), pattern[:, :, -1], rtol=0, atol=1e-12)
        expected = q.transpose(1, 2).flatten(2) / 6**0.5
        torch.testing.assert_close(seen.queries[layer], expected, rtol=0, atol=1e-12)


def test_episodes_in_chunks_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    network = regressor()
    prompted = PromptedRegressor(network, tolerance=0.5)
    prompts = prompted.prompts(normal(7, 5, 3), normal(7, 5, seed=1))
    whole = compare_fine_tuning(prompted, prompts, rate=0.02)
    monkeypatch.setattr("iclkit.analysis.inside.fine_tuning._NUMBERS", 3 * prompted.size)
    parts = compare_fine_tuning(prompted, prompts, rate=0.02)
    for name in ("sim_aou", "sim_am_before", "sim_am", "kendall"):
        torch.testing.assert_close(getattr(parts, name).values, getattr(whole, name).values)


def test_merged_matrices_are_fine_tuned_too() -> None:
    network = regressor(
        tokens="joined", start_token=True, merged=True, heads=1, mlp_ratio=0, norm=False, attention="linear"
    )
    prompted = PromptedRegressor(network, tolerance=0.5)
    assert {name.rpartition("attention.")[2] for name in prompted.moved} == {
        "key_query.weight",
        "value_out.weight",
    }
    found = compare_fine_tuning(prompted, prompted.prompts(normal(4, 5, 3), normal(4, 5, seed=1)), rate=0.1)
    assert found.sim_aou.values.isfinite().all()


def test_the_rate_is_that_of_the_least_loss() -> None:
    prompted = PromptedRegressor(regressor(), tolerance=0.5)
    prompts = prompted.prompts(normal(6, 5, 3), normal(6, 5, seed=1))
    rates = (0.001, 0.01, 0.1)
    chosen = compare_fine_tuning(prompted, prompts, rates=rates)
    losses = {
        rate: float(compare_fine_tuning(prompted, prompts, rate).losses["fine-tuned"].mean()) for rate in rates
    }
    assert chosen.rate == min(rates, key=losses.__getitem__)


# Tokens


def test_token_prompts_put_labels_behind_demonstrations_and_fill_up_in_front() -> None:
    episodes = [
        TokenEpisode([[5, 6], [7]], [1, 3], [8, 9], 3),
        TokenEpisode([[5], [6]], [3, 1], [7], 1),
    ]
    prompts, choices = token_prompts(episodes)
    assert choices.tolist() == [1, 3]
    assert prompts.in_context.tolist() == [[5, 6, 1, 7, 3, 8, 9], [-1, -1, 5, 3, 6, 1, 7]]
    assert prompts.owner.tolist() == [[0, 0, 0, 1, 1, -1, -1], [-2, -2, 0, 0, 1, 1, -1]]
    assert prompts.alone.tolist() == [[8, 9], [-1, 7]]
    assert prompts.demonstrations.tolist() == [[[5, 6], [-1, 7]], [[-1, 5], [-1, 6]]]
    assert prompts.trained.tolist() == [[[True, True], [False, True]], [[False, True], [False, True]]]
    assert (prompts.targets.tolist(), prompts.target.tolist()) == ([[0, 1], [1, 0]], [1, 0])


def test_a_network_of_tokens_is_compared_on_demonstrations_of_several_tokens() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        network = TokenTransformer(vocabulary=12, width=16, layers=2, heads=2, max_length=16)
    generator = torch.Generator().manual_seed(0)
    inputs, labels = (
        torch.randint(low, high, shape, generator=generator).tolist()
        for low, high, shape in (
            (4, 12, (8, 5, 2)),
            (0, 3, (8, 5)),
        )
    )
    episodes = [TokenEpisode(a[:4], b[:4], a[4], b[4]) for a, b in zip(inputs, labels, strict=True)]
    prompts, choices = token_prompts(episodes)
    prompted = PromptedTokens(network, choices)
    prompted.check(prompts)
    found = compare_fine_tuning(prompted, prompts, rate=0.1)
    logits = network(prompts.in_context)[:, -1, choices]
    torch.testing.assert_close(
        found.losses["in context"], F.cross_entropy(logits, prompts.target, reduction="none").detach()
    )
    assert found.query_tokens == 2
    # In the first layer scores depend on places, which are others in context.
    assert found.sim_am_before.values[:, 0].abs().max() < 1.0
    ragged, _ = token_prompts([TokenEpisode([[5, 6], [7]], [1, 2], [8, 9], 1)])
    with pytest.raises(UserError, match="one length"):
        prompted.check(ragged)


# Reports and mistakes


def test_tables_and_json_say_all() -> None:
    prompted = PromptedRegressor(regressor(), tolerance=0.5)
    found = compare_fine_tuning(prompted, prompted.prompts(normal(6, 5, 3), normal(6, 5, seed=1)), rate=0.01)
    answers, *measures = found.tables().values()
    assert [row[0] for row in answers.rows] == list(SETTINGS)
    for table in measures:
        assert [row[0] for row in table.rows] == ["blocks.0", "blocks.1", "all layers"]
    assert list(measures[0].columns) == ["layer", "SimAOU", "random update"]
    assert '"rec2ftp"' in found.to_json()
    assert "NaN" not in found.to_json()
    assert found.verdict.startswith("Rec2FTP")


def test_mistakes_are_told() -> None:
    network = regressor()
    with pytest.raises(UserError, match="must be an InContextRegressor, given Linear"):
        PromptedRegressor(nn.Linear(2, 2), 0.5)  # pyright: ignore
    with pytest.raises(UserError, match="must be a TokenTransformer, given InContextRegressor"):
        PromptedTokens(network)  # pyright: ignore
    with pytest.raises(UserError, match="recurrent"):
        PromptedRegressor(InContextRegressor(dim=3, width=8, layers=1, backbone="gru"), 0.5)
    with pytest.raises(UserError, match="tolerance must be positive"):
        PromptedRegressor(network, 0.0)
    prompted = PromptedRegressor(network, 0.5)
    with pytest.raises(UserError, match="takes up to 8"):
        prompted.prompts(normal(2, 10, 3), normal(2, 10))
    with pytest.raises(UserError, match="2 or more"):
        prompted.prompts(normal(2, 1, 3), normal(2, 1))
    prompts = prompted.prompts(normal(2, 5, 3), normal(2, 5))
    for rate in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(UserError, match="rate must be positive"):
            compare_fine_tuning(prompted, prompts, rate)
    with pytest.raises(UserError, match="rates to try"):
        compare_fine_tuning(prompted, prompts, rates=())
    with pytest.raises(UserError, match="diverges at rate"):
        compare_fine_tuning(prompted, prompts, 1e300)
    with pytest.raises(UserError, match="no episodes"):
        compare_fine_tuning(prompted, prompts.part(0, 0), 0.1)
    alone = PromptedRegressor(gradient_descent(3, 8), 0.5)
    control = alone, alone.prompts(normal(2, 5, 3), normal(2, 5))
    with pytest.raises(UserError, match=r"of the control, fine-tuning moves nothing.*--no-control"):
        compare_fine_tuning(prompted, prompts, 0.1, control=control)
    with pytest.raises(UserError, match="moves nothing"):
        compare_fine_tuning(alone, alone.prompts(normal(2, 5, 3), normal(2, 5)), 0.1)
    with pytest.raises(UserError, match="label for each"):
        TokenEpisode([[1]], [1, 2], [1], 1)
    with pytest.raises(UserError, match="at least one token"):
        TokenEpisode([[]], [1], [1], 1)
    with pytest.raises(UserError, match="from 0 on"):
        TokenEpisode([[-1]], [1], [1], 1)
    with pytest.raises(UserError, match="one number of demonstrations"):
        token_prompts([TokenEpisode([[1]], [1], [1], 1), TokenEpisode([[1], [2]], [1, 2], [1], 1)])
    with pytest.raises(UserError, match="labels must"):
        DescentCase(dim=4, demonstrations=4, queries=0, labels=5)


class CausalModel(nn.Module):
    """What is looked at of a model of Hugging Face before it is run."""

    def __init__(self, attention: nn.Module, **config: Any) -> None:
        super().__init__()
        self.attention, self.tokens, self.config = attention, nn.Embedding(9, 4), SimpleNamespace(**config)
        self.eval()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.tokens


@pytest.mark.parametrize("shape", [(12, 4), (4, 8)])
def test_causal_models_with_other_matrices_by_the_name_of_gpt2s_are_refused(shape: tuple[int, int]) -> None:
    """W x + b instead of x W + b, and heads that share keys and values: a third of columns is no queries."""
    attention, columns = nn.Module(), nn.Module()
    attention.c_attn, columns.weight = columns, nn.Parameter(torch.ones(shape))
    with pytest.raises(UserError, match="CausalModel has neither modules k_proj and v_proj"):
        PromptedCausalModel(CausalModel(attention), torch.tensor([1, 2]))
    columns.weight = nn.Parameter(torch.ones(4, 12))
    found = PromptedCausalModel(CausalModel(attention), torch.tensor([1, 2]))
    assert found.share["attention.c_attn.weight"].tolist() == [0.0] * 4 + [1.0] * 8


def test_prompts_longer_than_the_window_of_a_causal_model_are_refused() -> None:
    attention = nn.ModuleDict({"k_proj": nn.Linear(4, 4), "v_proj": nn.Linear(4, 4)})
    prompts, choices = token_prompts([TokenEpisode([[1, 2], [3, 4]], [5, 6], [1, 2], 5)])
    for config in ({"sliding_window": 7}, {"max_position_embeddings": 7}):
        model = PromptedCausalModel(CausalModel(attention, **config), choices)
        with pytest.raises(UserError, match="a prompt has 8 tokens, this model takes up to 7"):
            model.check(prompts)
    whole = {"sliding_window": 7, "layer_types": ["full_attention"], "max_position_embeddings": 8}
    PromptedCausalModel(CausalModel(attention, **whole), choices).check(prompts)


def test_a_network_without_attention_is_refused() -> None:
    from iclkit.networks import Layout

    network = InContextRegressor(
        dim=3, width=8, tokens="joined", head_width=8, layout=Layout((0,), (8,), (0,)), max_points=8
    )
    with pytest.raises(UserError, match="no attention"):
        PromptedRegressor(network, 0.5)
    assert BlockConfig(8, 0).heads == 0


def test_an_untrained_network_stands_beside_it() -> None:
    x, y = normal(6, 5, 3), normal(6, 5, seed=1)
    prompted, other = (PromptedRegressor(regressor(heads=heads), tolerance=0.5) for heads in (2, 4))
    control = other, other.prompts(x, y)
    found = compare_fine_tuning(prompted, prompted.prompts(x, y), rate=0.01, control=control)
    alone = compare_fine_tuning(*control, rate=0.01)
    assert found.control is not None
    assert torch.equal(found.control.sim_aou.values, alone.sim_aou.values)
    assert not torch.equal(found.sim_aou.values, alone.sim_aou.values)
    for table in list(found.tables().values())[1:]:
        assert table.columns[2] == "untrained"
    assert '"untrained"' in found.to_json()


class Language(nn.Module):
    """A causal model with one layer of attention, as far as a comparison looks into it."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({"k_proj": nn.Linear(4, 4), "v_proj": nn.Linear(4, 4)})
        self.config = SimpleNamespace()
        self.eval()


@pytest.mark.parametrize("tokens", ["joined", "interleaved", "language"])
def test_a_comparison_is_where_its_network_is(tokens: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device without numbers, where most operations on tensors of two devices are errors."""
    # What looks at numbers is left out.
    monkeypatch.setattr(fine_tuning, "_check_tuned", lambda *_: None)
    if tokens == "language":
        prompts, choices = token_prompts([TokenEpisode([[1, 2], [3, 4]], [5, 6], [1, 2], 5)] * 6)
        network: Any = TokenTransformer(vocabulary=9, width=8, heads=2, max_length=12).to("meta")
        prompted = PromptedTokens(network, choices)
        assert prompted.choices is not None
        assert prompted.choices.is_meta
        assert PromptedCausalModel(Language().to("meta"), choices).choices.is_meta
    else:
        prompted = PromptedRegressor(regressor(tokens=tokens, positions="learned").to("meta"), tolerance=0.5)
        prompts = prompted.prompts(normal(6, 5, 3), normal(6, 5))
        assert prompts.owner.is_meta
        assert prompts.trained.is_meta
    (part,) = fine_tuning._parts(prompted, prompts)
    assert all(value.is_meta for value in vars(part).values() if isinstance(value, Tensor))
    found = fine_tuning._compare(prompted, part, 0.1, torch.Generator())
    for values in [*found.losses.values(), *found.right.values()]:
        assert values.is_meta
        assert values.shape == (6,)
    assert all(values.is_meta and values.shape == (6, 2) for values in found.measures.values())
    for name in ("owner", "trained"):
        elsewhere = replace(part, **{name: torch.ones(getattr(part, name).shape, dtype=torch.bool)})
        with pytest.raises(RuntimeError, match="device"):
            fine_tuning._compare(prompted, elsewhere, 0.1, torch.Generator())
