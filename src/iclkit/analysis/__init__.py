"""Compare learners with references and with each other, by context size, with intervals."""

from iclkit.analysis.calibration import Calibration, calibrate
from iclkit.analysis.compare import Comparison
from iclkit.analysis.density import CONTEXT_SIZES, Divergence, kl_by_context, log_likelihood_by_context
from iclkit.analysis.distances import error, excess_risk, spd
from iclkit.analysis.inside.causal_model import PromptedCausalModel, load_causal_model
from iclkit.analysis.inside.dual_recorder import DualRecorder
from iclkit.analysis.inside.fine_tuning import compare_fine_tuning
from iclkit.analysis.inside.fine_tuning_scores import kendall, rec2ftp, sim_am, sim_aou
from iclkit.analysis.inside.induction import (
    attention_patterns,
    copying_eigenvalues,
    copying_score,
    in_context_learning_score,
    prefix_matching_score,
)
from iclkit.analysis.inside.induction_recorder import InductionRecorder
from iclkit.analysis.inside.probe import probe
from iclkit.analysis.inside.prompted_networks import PromptedRegressor, PromptedTokens
from iclkit.analysis.inside.random_features import RandomFeatures, feature_errors, softmax_dual
from iclkit.analysis.inside.token_prompts import TokenEpisode, token_prompts
from iclkit.analysis.inside.zero_shot import zero_shot_update
from iclkit.analysis.interpolation import interpolate, match_scale
from iclkit.analysis.intervals import Curve, Interval
from iclkit.analysis.linear_weights import ilwd
from iclkit.analysis.sensitivities import gradient_alignment, sensitivity_difference
from iclkit.analysis.shifts import compare_shifts
from iclkit.analysis.two_sample import classifier_test, energy_distance, mmd, mode_shares

__all__ = [
    "CONTEXT_SIZES",
    "Calibration",
    "Comparison",
    "Curve",
    "Divergence",
    "DualRecorder",
    "InductionRecorder",
    "Interval",
    "PromptedCausalModel",
    "PromptedRegressor",
    "PromptedTokens",
    "RandomFeatures",
    "TokenEpisode",
    "attention_patterns",
    "calibrate",
    "classifier_test",
    "compare_fine_tuning",
    "compare_shifts",
    "copying_eigenvalues",
    "copying_score",
    "energy_distance",
    "error",
    "excess_risk",
    "feature_errors",
    "gradient_alignment",
    "ilwd",
    "in_context_learning_score",
    "interpolate",
    "kendall",
    "kl_by_context",
    "load_causal_model",
    "log_likelihood_by_context",
    "match_scale",
    "mmd",
    "mode_shares",
    "prefix_matching_score",
    "probe",
    "rec2ftp",
    "sensitivity_difference",
    "sim_am",
    "sim_aou",
    "softmax_dual",
    "spd",
    "token_prompts",
    "zero_shot_update",
]
