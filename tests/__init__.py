"""The tests; shared material is imported as tests.<module>."""
