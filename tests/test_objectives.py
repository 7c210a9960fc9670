"""Every objective: the contract that all share, and what its gradient must be where it has a closed form."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from gaussian_toy import GaussianEnergy, GaussianWorld
from iclkit.energy.network import EnergyTransformer
from iclkit.energy.objectives import (
    OBJECTIVES,
    BinaryNCE,
    ContrastiveDivergence,
    DenoisingScoreMatching,
    EnergyDiscrepancy,
    ImportanceLikelihood,
    Objective,
    PersistentDivergence,
    RankingNCE,
    State,
)
from iclkit.energy.proposals import Proposal
from iclkit.energy.reference import Literal, Padded
from iclkit.errors import UserError
from iclkit.tasks import Episodes, GaussianMixtures

# The others find energies up to a constant of the context, and give a constant no gradient.
SEES_CONSTANTS = {"ContrastiveDivergence", "PersistentDivergence", "BinaryNCE"}

members = pytest.mark.parametrize("objective", [kind() for kind in OBJECTIVES.values()], ids=list(OBJECTIVES))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def network() -> EnergyTransformer:
    return EnergyTransformer(dim=2, width=16, layers=2, heads=2, features=2, positions="learned", max_points=4)


def episodes(seed: int, dtype: torch.dtype = torch.float32) -> Episodes:
    drawn = GaussianMixtures(mean_std=2.0).draw(4, 5, seeded(seed))
    law = dataclasses.replace(
        drawn.law,
        **{f.name: getattr(drawn.law, f.name).to(dtype) for f in dataclasses.fields(drawn.law) if f.init},
    )
    return Episodes(drawn.x.to(dtype), law)


# The contract


@members
def test_the_loss_is_a_finite_scalar_and_its_gradient_reaches_every_parameter(
    objective: Objective, network: EnergyTransformer
) -> None:
    loss, metrics, _ = objective(network, episodes(0), seeded(1), {})
    assert loss.shape == ()
    assert loss.isfinite()
    for name, value in metrics.items():
        assert value.shape == (), name
        assert value.isfinite(), name
    assert all(parameter.grad is None for parameter in network.parameters()), "chains left gradients behind"
    loss.backward()
    for name, parameter in network.named_parameters():
        if parameter.grad is None or not parameter.grad.any():
            # Both add a constant to every energy.
            assert name in ("readout.bias", "transformer.norm.bias")
            assert type(objective).__name__ not in SEES_CONSTANTS
        else:
            assert parameter.grad.isfinite().all(), name


@members
def test_a_call_is_a_function_of_its_generator(
    objective: Objective, network: EnergyTransformer, untouched_generators: None
) -> None:
    def call(seed: int) -> list[Tensor]:
        loss, _, state = objective(network, episodes(0), seeded(seed), {})
        gradients = torch.autograd.grad(loss, list(network.parameters()), materialize_grads=True)
        return [loss.detach(), *gradients, *state.values()]

    first, again, other = call(1), call(1), call(2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


@members
def test_networks_episodes_and_states_are_left_as_they_were(
    objective: Objective, network: EnergyTransformer
) -> None:
    data = episodes(0)
    _, _, state = objective(network, data, seeded(1), {})
    before = [tensor.clone() for tensor in (data.x, *network.parameters(), *state.values())]
    objective(network, data, seeded(2), state)[0].backward()
    after = (data.x, *network.parameters(), *state.values())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert not data.x.requires_grad


@members
def test_the_state_survives_a_checkpoint(objective: Objective, network: EnergyTransformer) -> None:
    """Bit for bit, for that is what resuming a run promises."""
    _, _, state = objective(network, episodes(0), seeded(1), {})
    assert not any(value.requires_grad for value in state.values())

    def go_on(state: State) -> Tensor:
        return objective(network, episodes(1), seeded(2), state)[0].detach()

    stored = load(save({name: value.contiguous() for name, value in state.items()})) if state else {}
    assert torch.equal(go_on(state), go_on(stored))


@members
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_dtype_of_network_and_data_is_kept(
    objective: Objective, network: EnergyTransformer, dtype: torch.dtype
) -> None:
    loss, _, state = objective(network.to(dtype), episodes(0, dtype), seeded(1), {})
    assert loss.dtype == dtype
    assert all(value.dtype == dtype for value in state.values())
    loss.backward()


@members
def test_points_after_a_prefix_do_not_change_what_is_said_of_it(objective: Objective) -> None:
    """Two episodes that share all but their last point: whatever is compared at prefix 0 has the same energies.

    A network that counts which prefixes it is asked about shows that every query is about 0..N - 1.
    """
    asked: list[list[int]] = []

    class Counting(GaussianEnergy):
        def query(self, context, candidates, prefixes, twice=False):
            asked.append(prefixes.tolist())
            assert candidates.shape[1] == len(prefixes)
            return super().query(context, candidates, prefixes, twice)

    objective(Counting(), GaussianWorld().draw(2, 5, seeded(0)), seeded(1), {})
    assert asked
    assert all(prefixes == [0, 1, 2, 3, 4] for prefixes in asked)


# Where the gradient vanishes: E[∂loss/∂θ] over many batches, in a world with a closed form

BATCHES = 60


def mean_gradient(
    objective: Objective, spread: float, batches: int = BATCHES, seed: int = 0, burn_in: int = 0, **wrong: float
) -> tuple[dict[str, float], dict[str, float]]:
    """Mean gradient over independent batches with respect to each parameter, and its standard error."""
    energy = GaussianEnergy(spread, **wrong)
    names = [name for name, _ in energy.named_parameters()]
    generator, rows, state = seeded(seed), [], {}
    for batch in range(burn_in + batches):
        loss, _, state = objective(energy, GaussianWorld(spread).draw(64, 4, generator), generator, state)
        if batch >= burn_in:
            rows.append(
                torch.stack(torch.autograd.grad(loss, list(energy.parameters()), materialize_grads=True))
            )
    table = torch.stack(rows)
    mean, error = table.mean(0), table.std(0) / math.sqrt(batches)
    return dict(zip(names, mean.tolist(), strict=True)), dict(zip(names, error.tolist(), strict=True))


PROPOSAL = Proposal(broad_std=2.0, kernel_stds=(0.7,), broad_share=0.5)

# Self-normalised importance weights and the log of a mean are biased by order 1/M, under the standard error.
NORMALISING = {
    "ImportanceLikelihood": ImportanceLikelihood(PROPOSAL, negatives=500),
    "RankingNCE": RankingNCE(PROPOSAL, negatives=5),
    "BinaryNCE": BinaryNCE(PROPOSAL, negatives=5),
    "BinaryNCE, law labels": BinaryNCE(PROPOSAL, negatives=5, labels="law"),
    "BinaryNCE, more positives": BinaryNCE(PROPOSAL, positives=3, negatives=5),
    "BinaryNCE, some prefixes": BinaryNCE(PROPOSAL, positives=2, negatives=5, prefixes=2, labels="law"),
    "EnergyDiscrepancy": EnergyDiscrepancy(time=0.5, negatives=500, stabiliser=0.1),
}
normalising = pytest.mark.parametrize("name", list(NORMALISING))

# By chance a mean exceeds 4.5 standard errors (Student's t with 59 degrees of freedom) once in 30,000 times.
LIMIT = 4.5


@normalising
def test_the_gradient_vanishes_at_the_bayes_predictive(name: str) -> None:
    """False alarms: 7 objectives and up to 4 parameters, hence one in 1,000 choices of the seed."""
    mean, error = mean_gradient(NORMALISING[name], spread=1.0)
    for parameter in mean:
        assert abs(mean[parameter]) <= LIMIT * error[parameter] + 1e-12, f"{parameter}: {mean[parameter]}"


@normalising
@pytest.mark.parametrize("parameter", ["shrink", "shift", "log_precision", "offset"])
@pytest.mark.parametrize("amount", [-0.4, 0.4])
def test_descent_leads_back_to_the_bayes_predictive(name: str, parameter: str, amount: float) -> None:
    # Far from the truth a bias of order 1/M is no matter, so a tenth of the candidates do.
    objective = NORMALISING[name]
    objective = dataclasses.replace(objective, negatives=min(objective.negatives, 50))
    mean, error = mean_gradient(objective, spread=1.0, batches=20, **{parameter: amount})
    if parameter == "offset" and not name.startswith("BinaryNCE"):
        # Right up to a constant of the context, exactly; only rounding is left.
        assert abs(mean["offset"]) < 1e-12
        return
    assert math.copysign(1, amount) * mean[parameter] > LIMIT * error[parameter]


def test_binary_nce_alone_finds_the_normalised_energy() -> None:
    """Descent on all four parameters from a wrong start ends at the truth, offset included."""
    energy = GaussianEnergy(1.0, shrink=-0.5, shift=0.5, log_precision=-0.5, offset=1.0)
    objective = BinaryNCE(PROPOSAL, negatives=5, labels="law")
    optimizer = torch.optim.SGD(energy.parameters(), lr=0.3)
    generator = seeded(0)
    for step in range(250):
        optimizer.param_groups[0]["lr"] = 0.3 * (1 - step / 250)
        optimizer.zero_grad()
        objective(energy, GaussianWorld().draw(64, 4, generator), generator, {})[0].backward()
        optimizer.step()
    for name, parameter in energy.named_parameters():
        # Ten times the scatter of the last iterates over seeds.
        assert abs(parameter.item()) < 0.05, f"{name}: {parameter.item()}"


@pytest.mark.parametrize("wrong", [{}, {"shrink": 0.3, "log_precision": -0.3, "shift": 0.2, "offset": 0.2}])
@pytest.mark.parametrize("positives", [1, 3])
def test_law_labels_have_the_expected_gradient_of_hard_ones_and_less_variance(
    wrong: dict[str, float], positives: int
) -> None:
    """Rao-Blackwell. Means agree within 4.5 standard errors of their difference: one false alarm in 2,000."""
    hard = mean_gradient(BinaryNCE(PROPOSAL, positives, 5), 1.0, batches=200, seed=1, **wrong)
    law = mean_gradient(BinaryNCE(PROPOSAL, positives, 5, labels="law"), 1.0, batches=200, seed=1, **wrong)
    for name in hard[0]:
        # The same seeds draw the same candidates, so that the true error is smaller still.
        difference, error = law[0][name] - hard[0][name], math.hypot(law[1][name], hard[1][name])
        assert abs(difference) < LIMIT * error, name
    # What hard labels add is noise uncorrelated with the law's gradient. Far from the truth the differences
    # between episodes dominate both. At the truth, equal variances would fall below 0.8 once in 17 times.
    ratio = sum(error**2 for error in law[1].values()) / sum(error**2 for error in hard[1].values())
    assert ratio < (1.0 if wrong else 0.8)


# Score matching and the divergences: closed forms of the whole gradient, with independent points


def test_score_matching_finds_the_density_smoothed_by_its_noise() -> None:
    """Points N(0, 1) and noise of variance s² make N(0, 1 + s²), whose precision is 1 / (1 + s²)."""
    noise_std = 0.8
    objective = DenoisingScoreMatching(noise_std=noise_std)
    smoothed = -math.log(1 + noise_std**2)
    mean, error = mean_gradient(objective, spread=0.0, log_precision=smoothed)
    for name in ("shift", "log_precision"):
        assert abs(mean[name]) < LIMIT * error[name], name
    assert mean["offset"] == 0
    for sign in (-1, 1):
        mean, error = mean_gradient(objective, spread=0.0, log_precision=smoothed + 0.3 * sign)
        assert sign * mean["log_precision"] > LIMIT * error["log_precision"]
        mean, error = mean_gradient(objective, spread=0.0, log_precision=smoothed, shift=0.3 * sign)
        assert sign * mean["shift"] > LIMIT * error["shift"]


def test_score_matching_of_the_zero_score_costs_the_dimension() -> None:
    flat = GaussianEnergy(0.0, log_precision=-100.0)
    loss, _, _ = DenoisingScoreMatching(copies=50)(
        flat, GaussianWorld(0.0).draw(100, 10, seeded(0)), seeded(1), {}
    )
    # The mean square of 50,000 standard normals: a standard error of sqrt(2 / 50,000) = 0.0063.
    assert abs(loss.item() - 1.0) < 0.03


def chain_variance(precision: float, steps: int, step_size: float, noise_std: float, start: float) -> float:
    """Variance of x after x ← (1 - α k) x + σ ξ, repeated, from the uniform density on [-start, start]."""
    shrinkage = (1 - step_size * precision) ** 2
    variance = start**2 / 3
    for _ in range(steps):
        variance = shrinkage * variance + noise_std**2
    return variance


@pytest.mark.parametrize(
    ("objective", "log_precision"),
    [
        (ContrastiveDivergence(penalty=0.0), -1.5),  # the published chains
        (ContrastiveDivergence(steps=2, step_size=0.3, noise_std=0.5, start=3.0, penalty=0.0), 0.2),
        (ContrastiveDivergence(steps=25, step_size=0.2, noise_std=math.sqrt(0.4), start=3.0, penalty=0.0), 0.0),
    ],
    ids=["published", "short", "long"],
)
def test_contrastive_divergence_contrasts_with_chains_of_exactly_its_settings(
    objective: ContrastiveDivergence, log_precision: float
) -> None:
    """With k = exp(log_precision), the gradient is k/2 (E[x²] - E[x_T²]), and E[x_T²] has a closed form.

    False alarms: one in 10,000 choices of the seed, over the three cases.
    """
    precision = math.exp(log_precision)
    negative = chain_variance(
        precision, objective.steps, objective.step_size, objective.noise_std, objective.start
    )
    mean, error = mean_gradient(objective, spread=0.0, batches=100, log_precision=log_precision)
    expected = precision / 2 * (1 - negative)
    assert abs(mean["log_precision"] - expected) < LIMIT * error["log_precision"]
    assert abs(mean["offset"]) < 1e-12


def test_persistent_chains_reach_their_stationary_density_where_fresh_ones_do_not() -> None:
    """Two steps of a slow chain, from a wide start. Chains that persist end at the stationary density of the
    discretised dynamics, whose variance is 1 / (k (1 - α k / 2)); k is chosen so that this is the data's.
    """
    step_size = 0.05
    precision = (1 - math.sqrt(1 - 2 * step_size)) / step_size  # the root of 1 / (k (1 - α k / 2)) = 1
    settings = {"steps": 2, "step_size": step_size, "start": 4.0}
    wrong = {"log_precision": math.log(precision)}

    persistent = PersistentDivergence(**settings, reuse=1e9, fresh=0.0, penalty=0.0)
    energy, generator, state, values = GaussianEnergy(0.0, **wrong), seeded(0), {}, []
    for batch in range(50 + 400):
        loss, _, state = persistent(energy, GaussianWorld(0.0).draw(256, 4, generator), generator, state)
        if batch >= 50:
            values.append(state["chains"].square().mean().item())
    # Successive batches share their chains; a block of 40 batches is four times their memory of 1 / αk steps.
    blocks = torch.tensor(values).view(10, 40).mean(1)
    error = blocks.std() / math.sqrt(10)
    # Student's t with 9 degrees of freedom exceeds 6 once in 5,000 times.
    assert abs(blocks.mean() - 1.0) < 6 * error
    assert error < 0.01

    fresh = ContrastiveDivergence(**settings, noise_std=math.sqrt(2 * step_size), penalty=0.0)
    mean, _ = mean_gradient(fresh, spread=0.0, **wrong)
    assert mean["log_precision"] < -1.0  # chains still spread over their start
    assert loss.isfinite()


def test_persistent_chains_stay_with_their_context() -> None:
    """Contexts stay for `reuse` steps on average, and chains are moved away from where they were by little."""
    objective = PersistentDivergence(steps=1, step_size=1e-4, reuse=4.0, fresh=0.25)
    energy, generator = GaussianEnergy(), seeded(0)
    _, _, before = objective(energy, GaussianWorld().draw(4000, 2, generator), generator, {})
    _, _, after = objective(energy, GaussianWorld().draw(4000, 2, generator), generator, before)

    kept = (before["contexts"] == after["contexts"]).all(-1).all(-1)
    # Binomial: 4,000 contexts kept with probability 3/4; five standard errors are 0.034.
    assert abs(kept.double().mean() - 0.75) < 0.034
    moved = (before["chains"] - after["chains"]).abs() > 0.2  # a step's noise has a standard deviation of 0.014
    share = moved[kept].double().mean()
    # A restarted chain lands within 0.2 of where it was once in 75 times.
    assert abs(share - 0.25 * (1 - 0.2 / 15)) < 0.02
    assert moved[~kept].double().mean() > 0.95


# Contrastive divergence as published


def test_contrastive_divergence_has_the_published_settings() -> None:
    assert dataclasses.asdict(ContrastiveDivergence()) == {
        "negatives": 3,
        "steps": 15,
        "step_size": 3.16,
        "noise_std": 0.01,
        "start": 15.0,
        "penalty": 1e-3,
    }


@pytest.mark.parametrize("step", [Literal(), Padded()], ids=["literal", "padded"])
def test_contrastive_divergence_equals_the_published_pseudocode(step: Literal | Padded) -> None:
    """Same weights, same draws: the same loss and gradients as re-encoding every prefix for every candidate.

    Fifteen Langevin steps multiply rounding, so float64 and 1e-8 rather than 1e-12.
    """
    network = EnergyTransformer(dim=2, width=16, layers=2, heads=2, max_points=5).double()
    data = episodes(3, torch.float64)
    objective = ContrastiveDivergence()
    loss, _, _ = objective(network, data, seeded(4), {})
    reference = step.loss(network, data.x, objective, seeded(4))
    torch.testing.assert_close(loss, reference, rtol=1e-8, atol=0)
    weights = list(network.parameters())
    for a, b in zip(torch.autograd.grad(loss, weights), torch.autograd.grad(reference, weights), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-8 * max(1.0, float(b.abs().max())))


# What users can get wrong


def test_settings_that_make_no_objective_are_refused() -> None:
    with pytest.raises(UserError, match="unknown labels 'soft'"):
        BinaryNCE(labels="soft")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="positives and negatives must be at least 1, given 0 and 8"):
        BinaryNCE(positives=0)


@pytest.mark.parametrize("objective", [BinaryNCE(labels="law"), BinaryNCE(positives=2)])
def test_a_task_without_a_law_is_refused_where_the_law_is_needed(objective: BinaryNCE) -> None:
    data = dataclasses.replace(GaussianWorld().draw(2, 3, seeded(0)), law=None)
    with pytest.raises(UserError, match="does not know its law"):
        objective(GaussianEnergy(), data, seeded(1), {})
    hard = BinaryNCE()
    assert hard(GaussianEnergy(), data, seeded(1), {})[0].isfinite()


def test_infinite_energies_of_far_negatives_are_no_danger() -> None:
    """A proposal point at which the network's exp(-E) underflows costs nothing and gives finite gradients."""
    proposal = Proposal(broad_std=1e3, kernel_stds=(1e-2,))
    for objective in (ImportanceLikelihood(proposal), RankingNCE(proposal), BinaryNCE(proposal, labels="law")):
        energy = GaussianEnergy(log_precision=3.0)
        loss, _, _ = objective(energy, GaussianWorld().draw(8, 4, seeded(0)), seeded(1), {})
        assert loss.isfinite()
        assert all(g.isfinite().all() for g in torch.autograd.grad(loss, list(energy.parameters())))
