"""Triton kernels for DeepSeek Sparse Attention on compute capability 8.0 and up, each beside a naive reference."""
