"""Formatters: each turns a verdict into one kind of text, and decides nothing."""
