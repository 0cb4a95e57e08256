"""The stacked LSTM cells that every learned part is made of."""

from metatele.recurrent.core import MOST_HIDDEN, MOST_LAYERS, RecurrentCore, check_size

__all__ = ["MOST_HIDDEN", "MOST_LAYERS", "RecurrentCore", "check_size"]
