"""Networks: plain modules that know nothing of the tasks they learn from."""

from iclkit.networks.attention import Attention, Memory
from iclkit.networks.embedding import PointEmbedding
from iclkit.networks.hooks import Hooked, HookPoint
from iclkit.networks.masks import Mask
from iclkit.networks.transformer import Transformer
from iclkit.networks.weighting import WEIGHTINGS

__all__ = [
    "WEIGHTINGS",
    "Attention",
    "HookPoint",
    "Hooked",
    "Mask",
    "Memory",
    "PointEmbedding",
    "Transformer",
]
