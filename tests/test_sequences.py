"""Sequences of tokens: a contract that each registered task passes, and the network that predicts them."""

from __future__ import annotations

import dataclasses
import inspect
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import iclkit
from iclkit.analysis.inside.probe import probe
from iclkit.cli import main
from iclkit.errors import UserError
from iclkit.learners.trained_sequences import TokenPredictor
from iclkit.sequences import NextToken, TokenTransformer, next_token_losses
from iclkit.tasks import SEQUENCE_TASKS, Copying, LinearRegression, RepeatedTokens, SequenceTask
from iclkit.training import RECIPES, Recipe, TokenConfig, Trainer, export, recipe_named, save, train
from iclkit.training.codec import decode, encode

LENGTH = 48
TASKS: dict[str, SequenceTask] = {name: task() for name, task in SEQUENCE_TASKS.items()} | {
    "distinct": RepeatedTokens(distinct=True),
    "one period": RepeatedTokens(vocabulary=5, shortest=7, longest=7),
    "short copies": Copying(vocabulary=3, shortest=1, longest=2, distinct=True),
}
every_task = pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@every_task
def test_tokens_are_whole_numbers_of_the_vocabulary(task: SequenceTask) -> None:
    drawn = task.draw(256, LENGTH, generator())
    assert drawn.tokens.shape == drawn.source.shape == (256, LENGTH)
    assert drawn.tokens.dtype == torch.int64
    # Missing one of at most 32 tokens among 256 sequences, each with one at random: (31/32)^256 < 4e-4.
    assert set(drawn.tokens.unique().tolist()) == set(range(task.vocabulary))


@every_task
def test_a_copy_is_what_its_source_is_and_comes_after_it(task: SequenceTask) -> None:
    drawn = task.draw(64, LENGTH, generator())
    assert drawn.copied.any(1).all()
    assert (drawn.source < torch.arange(LENGTH)).all()
    origin = drawn.tokens.gather(1, drawn.source.clamp(min=0))
    assert torch.equal(origin[drawn.copied], drawn.tokens[drawn.copied])


@every_task
def test_the_generator_alone_decides(task: SequenceTask, untouched_generators: None) -> None:
    one, again, other = (task.sample(8, LENGTH, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@every_task
@pytest.mark.parametrize(("episodes", "length"), [(0, 5), (3, 0), (3, 1)])
def test_small_batches(task: SequenceTask, episodes: int, length: int) -> None:
    assert task.sample(episodes, length, generator()).shape == (episodes, length)


@every_task
def test_a_task_can_be_written_down_and_read(task: SequenceTask) -> None:
    assert decode(type(task), encode(task)) == task
    assert dataclasses.is_dataclass(task)


@every_task
@pytest.mark.parametrize("given", [{"episodes": -1, "points": 4}, {"episodes": 2, "points": 1.5}])
def test_numbers_of_sequences_that_are_none(task: SequenceTask, given: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="must be"):
        task.draw(**given)


def test_periods_are_uniform_and_random() -> None:
    source = RepeatedTokens(shortest=2, longest=5).draw(4000, 8, generator()).source
    periods = (7 - source[:, -1]).bincount(minlength=6)
    assert periods[:2].sum() == 0
    # A count of 4000 with p = 1/4 has the standard deviation 27; five of them: false alarm < 3e-6.
    assert (periods[2:] - 1000).abs().max() < 137


def test_distinct_tokens_differ() -> None:
    tokens = RepeatedTokens(vocabulary=9, shortest=9, longest=9, distinct=True).sample(50, 9, generator())
    assert torch.equal(tokens.sort(-1).values, torch.arange(9).expand(50, 9))


def test_copying_written_out() -> None:
    drawn = Copying(vocabulary=6, shortest=3, longest=3).draw(1, 9, generator())
    a, b, c = drawn.tokens[0, :3].tolist()
    assert drawn.tokens[0].tolist() == [a, b, c, 5, a, b, c, 5, 5]
    assert drawn.source[0].tolist() == [-1, -1, -1, -1, 0, 1, 2, -1, -1]


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (RepeatedTokens, {"shortest": 0}, "shortest must be at least 1, given 0"),
        (RepeatedTokens, {"shortest": 9, "longest": 8}, "longest must be at least 9, given 8"),
        (RepeatedTokens, {"vocabulary": 1}, "vocabulary must be at least 2, given 1"),
        (RepeatedTokens, {"longest": 2.5}, "longest must be a whole number, given 2.5"),
        (RepeatedTokens, {"vocabulary": 20, "distinct": True}, "longest to be at most 20, given 24"),
        (Copying, {"vocabulary": 20, "distinct": True}, "longest to be at most 19, given 20"),
    ],
)
def test_sizes_that_no_sequence_has(kind: Any, given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        kind(**given)


# The network

SMALL: dict[str, Any] = {"vocabulary": 7, "width": 12, "heads": 3, "max_length": 10}


@pytest.mark.parametrize(
    "options", [{}, {"norm": False, "bias": True}, {"mlp_ratio": 2}, {"attention": "linear"}]
)
def test_the_network_is_causal_and_its_hooks_change_nothing(options: dict[str, Any]) -> None:
    network = TokenTransformer(**SMALL, **options).double()
    tokens = torch.randint(7, (4, 10), generator=generator())
    logits = network(tokens)
    assert logits.shape == (4, 10, 7)
    changed = tokens.clone()
    changed[:, 6:] = (changed[:, 6:] + 1) % 7
    torch.testing.assert_close(network(changed)[:, :6], logits[:, :6], rtol=0, atol=1e-12)
    torch.testing.assert_close(network(tokens[:, :3]), logits[:, :3], rtol=0, atol=1e-12)
    hooked, cache = network.run_with_cache(tokens, names="blocks.*.attention.pattern")
    torch.testing.assert_close(hooked, logits, rtol=0, atol=1e-12)
    assert [pattern.shape for pattern in cache.values()] == [(4, 3, 10, 10)] * 2


def test_losses_are_cross_entropies_of_the_next_token() -> None:
    network = TokenTransformer(**SMALL).double()
    tokens = torch.randint(7, (4, 10), generator=generator())
    losses = next_token_losses(network, tokens)
    for place in range(1, 10):
        expected = F.cross_entropy(network(tokens)[:, place - 1], tokens[:, place], reduction="none")
        torch.testing.assert_close(losses[:, place - 1], expected)
    torch.nn.init.zeros_(network.unembedding.weight)
    torch.testing.assert_close(next_token_losses(network, tokens), torch.full((4, 9), math.log(7)).double())


@pytest.mark.parametrize("norm", [True, False])
def test_direct_logits_are_what_the_last_stream_gives(norm: bool) -> None:
    """Of the whole stream they are the logits themselves, but for their mean and the LayerNorm's factor."""
    network = TokenTransformer(**SMALL, norm=norm).double()
    tokens = torch.randint(7, (4, 10), generator=generator())
    logits, cache = network.run_with_cache(tokens, names="blocks.1.residual")
    stream = cache["blocks.1.residual"]
    direct = network.direct_logits(stream)
    if norm:
        direct = direct / (stream.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(direct, logits - logits.mean(-1, keepdim=True), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"width": 0}, "width must be at least 1, given 0"),
        ({"heads": 5}, "heads must divide the width, given 5 heads and width 12"),
        ({"mlp_ratio": -1}, "mlp_ratio must not be negative"),
        ({"attention": "sotfmax"}, "attention must be one of 'softmax'"),
    ],
)
def test_networks_that_cannot_be_built(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TokenTransformer(**{**SMALL, **given})


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([[1, 2]], "tokens must be a tensor of whole numbers, given list"),
        (torch.zeros(2, 3), "tokens must be a tensor of whole numbers, given torch.float32"),
        (torch.zeros(3, dtype=torch.int64), r"shape \[sequences, 1..10\], given \[3\]"),
        (torch.zeros(1, 11, dtype=torch.int64), r"shape \[sequences, 1..10\], given \[1, 11\]"),
        (torch.tensor([[0, 7]]), "tokens must lie in 0..6, given 0..7"),
    ],
)
def test_tokens_that_are_none(tokens: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        TokenTransformer(**SMALL)(tokens)


# Recipes and model folders


def tiny(**changes: Any) -> Recipe:
    given: dict[str, Any] = {
        "name": "tiny",
        "task": Copying(vocabulary=7, shortest=2, longest=4),
        "network": TokenConfig(**SMALL),
        "episodes": 4,
        "points": 10,
        "steps": 4,
        "checkpoint_every": 2,
    }
    return dataclasses.replace(recipe_named("induction"), **{**given, **changes})


def test_the_configuration_mirrors_the_network() -> None:
    parameters = inspect.signature(TokenTransformer).parameters
    assert {field.name: field.default for field in dataclasses.fields(TokenConfig)} == {
        name: parameter.default for name, parameter in parameters.items()
    }


def test_a_recipe_survives_json_and_its_run_resumes_bit_for_bit(tmp_path: Path) -> None:
    assert Recipe.from_json(tiny().to_json()) == tiny()
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(tiny(), whole, progress=False)
    train(tiny(), parts, progress=False, stop_after=2)
    train(tiny(), parts, progress=False, resume=True)
    ends = [run / "checkpoints" / "step-00000004" / "weights.safetensors" for run in (whole, parts)]
    assert ends[0].read_bytes() == ends[1].read_bytes()


@pytest.mark.parametrize("name", [name for name in RECIPES if recipe_named(name).kind == "sequences"])
def test_registered_recipes_can_run(name: str) -> None:
    """One update each, of a shallower network; the longest sequence of the task fits in."""
    recipe = recipe_named(name)
    small = dataclasses.replace(
        recipe, network=dataclasses.replace(recipe.network, layers=1, width=8), episodes=4
    )
    values = Trainer(small).update()
    # Uniform guesses lose log 32 = 3.47; weights as they start are near them.
    assert values["loss"] == pytest.approx(math.log(32), abs=1)
    assert values["gradient_norm"] > 0
    assert recipe.task.draw(64, recipe.points, generator()).copied.any(1).all()


def test_a_run_becomes_a_model_that_predicts_as_its_network(tmp_path: Path) -> None:
    run = train(tiny(), tmp_path / "run", progress=False)
    learner = iclkit.load(export(run, tmp_path / "model", name="copier"), "sequences")
    assert isinstance(learner, TokenPredictor)
    assert (learner.name, learner.task, learner.limit) == ("copier", tiny().task, 10)
    tokens = tiny().task.draw(5, 10, generator()).tokens
    log_probs = learner.predict(tokens)
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(5, 10))
    assert torch.equal(log_probs, iclkit.load(run).predict(tokens))
    # Of each token but the first, what the prediction before it said.
    said = log_probs[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0]
    torch.testing.assert_close(learner.losses(tokens), -said)
    again = train(tiny(start=str(tmp_path / "model"), steps=1), tmp_path / "again", progress=False)
    assert (again / "checkpoints" / "step-00000001").is_dir()


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    """Half of what is to be said of a short copy is learned in no time: the separators at the end."""
    task = Copying(vocabulary=7, shortest=1, longest=2)
    run = train(tiny(task=task, steps=60, episodes=16), tmp_path / "run", progress=False)
    tokens = task.sample(64, 10, generator())
    before = next_token_losses(TokenConfig(**SMALL).build(0), tokens).mean()
    assert iclkit.load(run).losses(tokens).mean() < 0.5 * before


def test_a_network_made_by_hand_is_saved_and_loaded(tmp_path: Path) -> None:
    network = TokenTransformer(**SMALL, norm=False).double()
    task = RepeatedTokens(vocabulary=7, shortest=2, longest=3)
    learner = iclkit.load(save(network, tmp_path / "model", task))
    tokens = task.sample(3, 10, generator())
    assert torch.equal(learner.network(tokens), network(tokens))
    with pytest.raises(UserError, match=r"LinearRegression is no task of this network; give a SequenceTask"):
        save(network, tmp_path / "other", LinearRegression())
    with pytest.raises(UserError, match=r"network.vocabulary is 7 but the task has 32 different tokens"):
        save(network, tmp_path / "other", RepeatedTokens())
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"points": 11}, r"points must lie in 2..network.max_length = 10, given 11"),
        ({"points": 1}, r"points must lie in 2..network.max_length = 10, given 1"),
        ({"task": Copying()}, r"network.vocabulary is 7 but the task has 32 different tokens"),
        ({"task": LinearRegression()}, r"LinearRegression is no task for a network of kind 'sequences'"),
        ({"network": recipe_named("linear").network}, r"Copying is no task for a network of kind 'regression'"),
        (
            {"objective": recipe_named("linear").objective},
            r"SquaredError is no objective for a network of kind",
        ),
        ({"standardise": True}, r"standardise is for data with units"),
        ({"pads": True}, r"curriculum and pads are for regression alone"),
    ],
)
def test_recipes_that_cannot_run_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tiny(**changes)


def test_an_objective_of_tokens_is_for_nothing_else() -> None:
    with pytest.raises(UserError, match="NextToken is no objective for a network of kind 'regression'"):
        dataclasses.replace(recipe_named("linear"), objective=NextToken())


def test_probes_have_no_targets_in_tokens() -> None:
    learner = TokenPredictor(TokenTransformer(**SMALL), RepeatedTokens(vocabulary=7, longest=9))
    with pytest.raises(UserError, match="probes have targets in tasks of points, given RepeatedTokens"):
        probe(learner)


@pytest.mark.slow
def test_two_layers_copy_within_seconds(tmp_path: Path) -> None:
    """0.08 to 0.12 nats in ten seconds of one core were measured from three seeds."""
    recipe = recipe_named("copying")
    drawn = recipe.task.draw(256, recipe.points, generator(99))
    losses = iclkit.load(train(recipe, tmp_path / "run", progress=False)).losses(drawn.tokens)
    assert losses[drawn.copied[:, 1:]].mean() < 0.2


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("card MODEL", "predicts tokens, for which there is no card"),
        ("identify MODEL", "give a regression model"),
        ("compare MODEL", "give a regression model"),
        ("evaluate --model MODEL", "but one of densities is needed"),
        ("train linear --start MODEL --out RUN", "but one of regression is needed"),
    ],
)
def test_commands_for_other_models_say_so(
    command: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = save(TokenTransformer(**SMALL), tmp_path / "model", RepeatedTokens(vocabulary=7, longest=9))
    places = {"MODEL": str(model), "RUN": str(tmp_path / "run")}
    assert main([places.get(word, word) for word in command.split()]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
