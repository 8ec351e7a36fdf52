"""Says which layer keeps a DeepSeek Sparse Attention model from running on a GPU, and makes it run."""

__version__ = "0.1.0"
