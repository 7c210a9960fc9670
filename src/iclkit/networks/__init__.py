"""Networks: plain modules that know nothing of the tasks they learn from."""

from iclkit.networks.embedding import PointEmbedding
from iclkit.networks.transformer import Memory, Transformer

__all__ = ["Memory", "PointEmbedding", "Transformer"]
