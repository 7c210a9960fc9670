"""Compare learners with references and with each other, by context size, with intervals."""

from iclkit.analysis.calibration import Calibration, calibrate
from iclkit.analysis.density import CONTEXT_SIZES, Divergence, kl_by_context, log_likelihood_by_context
from iclkit.analysis.intervals import Curve, Interval
from iclkit.analysis.two_sample import classifier_test, energy_distance, mmd, mode_shares

__all__ = [
    "CONTEXT_SIZES",
    "Calibration",
    "Curve",
    "Divergence",
    "Interval",
    "calibrate",
    "classifier_test",
    "energy_distance",
    "kl_by_context",
    "log_likelihood_by_context",
    "mmd",
    "mode_shares",
]
