"""Data: GPUs, models, ops and findings that dsa-doctor knows, each entry with its source."""
