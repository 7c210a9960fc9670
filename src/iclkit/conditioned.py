"""A trained density with a user's data as its context: what the command line and scikit-learn see of it."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from iclkit.ambient import neutral, quiet
from iclkit.arrays import as_tensor
from iclkit.data import refuse_constant_columns
from iclkit.energy.chains import Chains, Sampler
from iclkit.energy.partition import LogPartition
from iclkit.energy.starts import literal
from iclkit.errors import UserError
from iclkit.learners.trained import EnergyDensity
from iclkit.networks.hooks import copy_with_hooks


class ConditionedDensity:
    """The density that frozen weights see behind one context; arrays in and out, in the data's own units.

    Args:
        learner: The trained model.
        context: Rows that the density is conditioned on, [n, d], finite.
        names: Names of the columns, for messages; "column 1", ... by default.
        allow_longer: Take more rows than the model was trained on, with a warning.
        double: Evaluate in double precision, at twice the cost; in single precision a log density has an error
            of about 1e-5, which depends on the points that it is evaluated with.
        transforms: Average the energy over so many turned and reflected copies of the context; None for the
            learner's own number (see `EnergyDensity`).

    Raises:
        UserError: Rows that the model cannot be conditioned on.
    """

    @neutral()
    def __init__(
        self,
        learner: EnergyDensity,
        context: NDArray[np.float64],
        names: Sequence[str] | None = None,
        allow_longer: bool = False,
        double: bool = False,
        transforms: int | None = None,
    ) -> None:
        check_context(learner, context, names, allow_longer)
        if transforms is not None:
            learner = dataclasses.replace(learner, transforms=transforms)
        if double:
            learner = dataclasses.replace(learner, network=copy_with_hooks(learner.network).double())
        with quiet(UserWarning):  # `check_context` has said it
            self._landscape = learner.condition(context, allow_longer=allow_longer)

    @cached_property
    def _distribution(self) -> torch.distributions.Distribution:
        return self._landscape.normalise()

    @property
    def log_partition(self) -> LogPartition:
        """How the density is normalised, and how well."""
        return self._landscape.log_partition()

    @neutral()
    def log_density(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Log density of points [m, d] in nats, per unit of each column; -inf where it underflows."""
        with torch.no_grad():
            return self._distribution.log_prob(as_tensor(points, "points", allow="infinite")).double().numpy()

    @neutral()
    def sample(
        self, size: int, seed: int, sampler: Sampler | None = None
    ) -> tuple[NDArray[np.float64], Chains]:
        """Draw points [size, d].

        Args:
            size: How many.
            seed: Seed of the draws.
            sampler: A Markov chain sampler; None for the landscape's own choice. A `literal` one needs no
                normalising constant.

        Returns:
            The draws, and the chains that they are from, with their diagnostics.
        """
        if not literal(sampler):
            _ = self._distribution  # what has no normalising constant is refused
        generator = torch.Generator().manual_seed(seed)
        draws, chains = self._landscape.sample(size, sampler, generator, diagnostics=True)
        return draws.double().numpy(), chains


def check_context(
    learner: EnergyDensity, context: NDArray[np.float64], names: Sequence[str] | None, allow_longer: bool
) -> None:
    """Whether a model can be conditioned on a context; arguments and errors as of `ConditionedDensity`."""
    rows, columns = context.shape
    name = learner.name or "the model"
    if columns != learner.dim:
        raise UserError(f"the context has {columns} columns, {name} takes {learner.dim}")
    if learner.standardise and rows < 2:
        raise UserError(f"{name} needs at least 2 rows to know the units of the data, given {rows}")
    if rows > learner.limit:
        words = f"the context has {rows} rows, {name} was trained on up to {learner.limit}"
        if not allow_longer:
            raise UserError(f"{words}; give a subset of them")
        warnings.warn(f"{words}: nothing is known of its quality beyond", stacklevel=3)
    # An array of names, as scikit-learn keeps them, has no truth value.
    named = [f"column {i + 1}" for i in range(columns)] if names is None else names
    refuse_constant_columns(context, named)
