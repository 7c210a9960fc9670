"""Learners: maps from a context to predictions. Textbook references and trained networks share one protocol."""

from collections.abc import Callable

from iclkit.learners.average import AverageLearner
from iclkit.learners.averaging import Averaging, Zero
from iclkit.learners.base import DensityLearner, Predictive
from iclkit.learners.bayes import bayes
from iclkit.learners.classical import (
    DirichletMixtureLearner,
    GaussianMixtureLearner,
    KernelDensityLearner,
    RuleOfThumbLearner,
)
from iclkit.learners.context_network import TrainedNetwork
from iclkit.learners.curvature import GradientDescentPlusPlus, Newton
from iclkit.learners.descent import GradientDescent, OnePassSGD
from iclkit.learners.enumeration import EnumerationBayes
from iclkit.learners.gaussian_process import GaussianProcess
from iclkit.learners.intercept import WithIntercept, with_one
from iclkit.learners.lasso import Lasso
from iclkit.learners.latent_smc import LatentSMC
from iclkit.learners.least_squares import LeastSquares
from iclkit.learners.mixture_filter import MixtureFilter
from iclkit.learners.mixture_predictive import MixturePredictive
from iclkit.learners.nearest_neighbors import NearestNeighbors
from iclkit.learners.on_features import OnFeatures, ProbabilisticOnFeatures
from iclkit.learners.pool import PoolBayes
from iclkit.learners.pool_posterior import PoolPosterior, SmoothedPoolPosterior
from iclkit.learners.posterior_mixture import PosteriorMixture
from iclkit.learners.regression import (
    CallableLearner,
    LinearLearner,
    ProbabilisticLearner,
    RegressionLearner,
    as_learner,
)
from iclkit.learners.ridge import BayesLinear, Ridge
from iclkit.learners.single_fits import ShrunkGaussianLearner, StudentLearner
from iclkit.learners.sparse_linear import SparseBayesLinear
from iclkit.learners.trees import BoostedTrees, GreedyTree
from iclkit.tasks import LinearPool

# The textbook learners of regression, each with the settings of an example (those published, where there are).
REGRESSION_LEARNERS: dict[str, Callable[[], RegressionLearner]] = {
    "Zero": Zero,
    "Averaging": Averaging,
    "NearestNeighbors": lambda: NearestNeighbors(3),
    "LeastSquares": LeastSquares,
    "Ridge": lambda: Ridge(0.1),
    "BayesLinear": lambda: BayesLinear(0.5),
    "GradientDescent": lambda: GradientDescent(1),
    "GradientDescentPlusPlus": GradientDescentPlusPlus,
    "Newton": lambda: Newton(4),
    "OnePassSGD": lambda: OnePassSGD(0.01),
    "GaussianProcess": GaussianProcess,
    "Lasso": lambda: Lasso(0.1),
    "PoolPosterior": lambda: PoolPosterior(LinearPool(), 0.5),
    "TrainedNetwork": TrainedNetwork,
    "GreedyTree": GreedyTree,
    "BoostedTrees": lambda: BoostedTrees(trees=10),  # 100 in publications
    "SmoothedPoolPosterior": lambda: SmoothedPoolPosterior(LinearPool(), 0.5, 0.1),
    "SparseBayesLinear": lambda: SparseBayesLinear(2, 0.5),
    "WithIntercept": lambda: WithIntercept(Ridge(0.1)),
}

__all__ = [
    "REGRESSION_LEARNERS",
    "AverageLearner",
    "Averaging",
    "BayesLinear",
    "BoostedTrees",
    "CallableLearner",
    "DensityLearner",
    "DirichletMixtureLearner",
    "EnumerationBayes",
    "GaussianMixtureLearner",
    "GaussianProcess",
    "GradientDescent",
    "GradientDescentPlusPlus",
    "GreedyTree",
    "KernelDensityLearner",
    "Lasso",
    "LatentSMC",
    "LeastSquares",
    "LinearLearner",
    "MixtureFilter",
    "MixturePredictive",
    "NearestNeighbors",
    "Newton",
    "OnFeatures",
    "OnePassSGD",
    "PoolBayes",
    "PoolPosterior",
    "PosteriorMixture",
    "Predictive",
    "ProbabilisticLearner",
    "ProbabilisticOnFeatures",
    "RegressionLearner",
    "Ridge",
    "RuleOfThumbLearner",
    "ShrunkGaussianLearner",
    "SmoothedPoolPosterior",
    "SparseBayesLinear",
    "StudentLearner",
    "TrainedNetwork",
    "WithIntercept",
    "Zero",
    "as_learner",
    "bayes",
    "with_one",
]
