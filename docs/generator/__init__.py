"""The parts of `docs/generate.py`: one module per subject, each giving whole pages as text."""
