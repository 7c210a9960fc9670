"""`iclkit fine-tuning`: is what a network learns in context like fine-tuning on the same demonstrations?"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from iclkit.cli import output
from iclkit.cli.compare import check_options, show
from iclkit.cli.parser import Parser
from iclkit.cli.streams import say
from iclkit.errors import UserError

if TYPE_CHECKING:
    from iclkit.analysis.inside.fine_tuning_comparison import FineTuningComparison
    from iclkit.analysis.inside.prompted import Prompted, Prompts
    from iclkit.regression import InContextRegressor
    from iclkit.sequences import TokenTransformer

SIGN = "fine-tuning.json"
_TASK = ("task", "dim", "noise_std", "demonstrations", "tolerance", "episodes")
_EPISODES = 64
# Right answers are within this share of the mean square of the targets, if nothing else is said.
_SHARE = 0.1


class _Case(NamedTuple):
    """Who is asked what."""

    network: Prompted
    prompts: Prompts
    title: str
    untrained: tuple[Prompted, Prompts] | None


def run(argv: list[str]) -> None:
    given = _parser().parse(argv)
    _check(given)

    from iclkit.analysis.inside.fine_tuning import compare_fine_tuning

    case = _from_hub(given) if given.hub is not None else _from_model(given)
    control = None if given.no_control else case.untrained
    found = compare_fine_tuning(case.network, case.prompts, given.rate, given.seed, control=control)
    head = (
        f"{case.title}; {len(case.prompts)} episodes of {case.prompts.targets.shape[1]} demonstrations, "
        f"learning rate {found.rate:g}"
    )
    say(head)
    show(found.tables())
    say("\n".join([found.verdict, *found.notes]))
    if given.out is not None:
        _write(given.out, head, found)


def _parser() -> Parser:
    parser = Parser(
        "fine-tuning",
        "Compare what demonstrations in the context do to a network with what training its keys and values on "
        "them does (one epoch, one demonstration at a time). SimAOU: are the updates of attention outputs "
        "alike? SimAM: the scores within the query? Kendall: the order in which demonstrations are attended "
        "to? Rec2FTP: how many of the answers that fine-tuning sets right does the context set right?",
    )
    parser.add_argument(
        "model", metavar="MODEL", nargs="?", help="a model of regression or of sequences, or a run: linear"
    )
    parser.add_argument(
        "--task", help="a regression task: linear, LinearRegression(dim=8) (default: the model's own)"
    )
    parser.add_argument("--dim", type=int, help="dimension of the inputs")
    parser.add_argument("--noise-std", type=float, help="standard deviation of the noise")
    parser.add_argument(
        "--demonstrations", type=int, metavar="N", help="of each episode (default: as many as the model takes)"
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        help="squared error up to which a prediction is right (default: a tenth of the targets' mean square)",
    )
    parser.add_argument("--episodes", type=int, help=f"how many (default: {_EPISODES})")
    parser.add_argument(
        "--hub", type=Path, metavar="PATH", help="instead of MODEL: a causal model of Hugging Face in a folder"
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FILE",
        help="episodes for --hub or a model of sequences: a JSON object a line, with demonstrations, labels, "
        "query and label, as token ids or text",
    )
    parser.add_argument(
        "--rate", type=float, help="learning rate of the fine-tuning (default: the best of 0.00001 to 10)"
    )
    parser.add_argument(
        "--no-control",
        action="store_true",
        help="without the untrained network of the same shape",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of everything drawn (default: 0)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for the figure, the tables and all numbers"
    )
    parser.add_argument("--force", action="store_true", help="write into a folder that holds other things")
    return parser


def _check(given: argparse.Namespace) -> None:
    """Refuse what does not fit together before anything is loaded."""
    if (given.model is None) == (given.hub is None):
        raise UserError("give a MODEL, or a causal model's folder by --hub (see iclkit fine-tuning --help)")
    if given.hub is not None and given.data is None:
        raise UserError("--hub needs the episodes by --data FILE")
    if given.data is not None:
        for name in _TASK:
            if getattr(given, name) is not None:
                raise UserError(f"--{name.replace('_', '-')} does not go with --data, whose file says all")
        if not given.data.is_file():
            raise UserError(f"there is no file {given.data}")
    for name in ("episodes", "demonstrations"):
        value = getattr(given, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} must be at least 1, given {value}")
    check_options(given, SIGN)


def _from_hub(given: argparse.Namespace) -> _Case:
    from iclkit.analysis.inside.causal_model import (
        PromptedCausalModel,
        load_causal_model,
        untrained_causal_model,
    )
    from iclkit.analysis.inside.token_prompts import token_prompts
    from iclkit.cli.token_data import read_episodes, tokenizer_of

    model = load_causal_model(given.hub)
    prompts, choices = token_prompts(read_episodes(given.data, tokenizer_of(given.hub)))
    network = PromptedCausalModel(model, choices)
    network.check(prompts)
    fresh = PromptedCausalModel(untrained_causal_model(model, given.seed), choices)
    return _Case(network, prompts, f"{type(model).__name__} in {given.hub}", (fresh, prompts))


def _from_model(given: argparse.Namespace) -> _Case:
    from iclkit.learners.trained_regression import TrainedRegressor
    from iclkit.learners.trained_sequences import TokenPredictor
    from iclkit.training.models import load

    learner: Any = load(given.model)
    if isinstance(learner, TokenPredictor):
        return _from_sequences(given, learner.network)
    if not isinstance(learner, TrainedRegressor):
        raise UserError(f"{given.model} is a model of densities; give one of regression or of sequences")
    if given.data is not None:
        raise UserError("--data is for models of tokens; a model of regression gets its episodes from --task")
    if learner.standardise:
        raise UserError(
            f"{given.model} rescales each context before its network sees it; give a model in the units of its "
            "prior, such as linear"
        )
    return _from_regression(given, learner)


def _from_regression(given: argparse.Namespace, learner: Any) -> _Case:
    import torch

    from iclkit.analysis.inside.activations import untrained
    from iclkit.analysis.inside.prompted_networks import PromptedRegressor
    from iclkit.analysis.naming import written
    from iclkit.cli.specs import parse_task, with_fields

    task = parse_task(given.task) if given.task is not None else learner.task
    if task is None:  # weights made by hand
        task = with_fields(parse_task("LinearRegression"), dim=learner.network.dim)
    task = with_fields(task, dim=given.dim, noise_std=given.noise_std)
    if task.dim != learner.network.dim:
        raise UserError(
            f"the task has dimension {task.dim}, {given.model} takes {learner.network.dim}; give another "
            "--task or --dim"
        )
    count = _demonstrations(given, learner.network.max_points)
    generator = torch.Generator().manual_seed(given.seed)
    x, y = task.sample(given.episodes or _EPISODES, count + 1, generator)
    tolerance = _SHARE * float(y[:, -1].square().mean()) if given.tolerance is None else given.tolerance
    network = PromptedRegressor(learner.network, tolerance)
    title = f"{given.model} on {written(task)}; right is a squared error up to {tolerance:.3g}"
    fresh = PromptedRegressor(cast("InContextRegressor", untrained(learner.network, given.seed)), tolerance)
    # What was made by hand has no untrained self.
    control = None if learner.task is None else (fresh, fresh.prompts(x, y))
    return _Case(network, network.prompts(x, y), title, control)


def _from_sequences(given: argparse.Namespace, network: Any) -> _Case:
    import torch

    from iclkit.analysis.inside.activations import untrained
    from iclkit.analysis.inside.prompted_networks import PromptedTokens
    from iclkit.analysis.inside.token_prompts import recall_episodes, token_prompts
    from iclkit.cli.token_data import read_episodes

    for name in ("task", "dim", "noise_std", "tolerance"):
        if getattr(given, name) is not None:
            raise UserError(
                f"--{name.replace('_', '-')} is for models of regression; {given.model} is of sequences"
            )
    if given.data is not None:
        prompts, choices = token_prompts(read_episodes(given.data))
        title = f"{given.model} on {given.data}"
    else:
        most = min((network.max_length - 1) // 2, network.vocabulary // 2)
        count = _demonstrations(given, most)
        generator = torch.Generator().manual_seed(given.seed)
        drawn = recall_episodes(network.vocabulary, given.episodes or _EPISODES, count, generator)
        prompts, choices = token_prompts(drawn)
        title = f"{given.model} on pairs of random tokens"
    asked = PromptedTokens(network, choices)
    asked.check(prompts)
    fresh = PromptedTokens(cast("TokenTransformer", untrained(network, given.seed)), choices)
    return _Case(asked, prompts, title, (fresh, prompts))


def _demonstrations(given: argparse.Namespace, most: int) -> int:
    """How many demonstrations an episode has: as many as the network takes, if nothing else is said."""
    if given.demonstrations is None:
        return most
    if given.demonstrations > most:
        raise UserError(f"{given.model} takes up to {most} demonstrations, given {given.demonstrations}")
    return given.demonstrations


def _write(folder: Path, head: str, found: FineTuningComparison) -> None:
    """The numbers, the tables and the figure."""
    from iclkit.analysis.table import markdown
    from iclkit.report.figures import png
    from iclkit.report.fine_tuning_figure import fine_tuning_figure

    folder.mkdir(parents=True, exist_ok=True)
    text = "\n\n".join([markdown(head, found.tables()), found.verdict, *found.notes]) + "\n"
    output.write(folder / SIGN, found.to_json().encode())
    output.write(folder / "fine-tuning.md", text.encode())
    output.write(folder / "fine-tuning.png", png(fine_tuning_figure(found, head)))
    output.note(f"wrote {SIGN}, fine-tuning.md and fine-tuning.png to {folder}")
