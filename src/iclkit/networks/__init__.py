"""Networks: plain modules that know nothing of the tasks they learn from."""

from iclkit.networks.activations import ACTIVATIONS
from iclkit.networks.attention import Attention, Memory
from iclkit.networks.config import BlockConfig
from iclkit.networks.embedding import PointEmbedding
from iclkit.networks.hooks import Hooked, HookPoint
from iclkit.networks.layout import Layout
from iclkit.networks.linear_attention import MergedAttention
from iclkit.networks.magnitudes import finite, power_of_two, shrinking, within_reach
from iclkit.networks.masks import Mask
from iclkit.networks.recurrent import Recurrent
from iclkit.networks.transformer import Transformer
from iclkit.networks.variants import PLAIN, AttentionVariant
from iclkit.networks.weighting import WEIGHTINGS

__all__ = [
    "ACTIVATIONS",
    "PLAIN",
    "WEIGHTINGS",
    "Attention",
    "AttentionVariant",
    "BlockConfig",
    "HookPoint",
    "Hooked",
    "Layout",
    "Mask",
    "Memory",
    "MergedAttention",
    "PointEmbedding",
    "Recurrent",
    "Transformer",
    "finite",
    "power_of_two",
    "shrinking",
    "within_reach",
]
