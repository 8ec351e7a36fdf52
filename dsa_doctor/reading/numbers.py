"""Patterns of numbers in text from outside: what matches one is a number for int() or float(), whatever it looks like.

int() refuses more than 4,300 digits, and neither takes "0..", so that looser patterns raise on lines of a broken log.
"""

WHOLE = r"\d{1,15}"
GROUPED = r"\d{1,3}(?:,?\d{3}){0,4}"
"""A whole number, with or without commas between thousands."""
DECIMAL = r"\d{1,15}(?:\.\d{1,15})?"
