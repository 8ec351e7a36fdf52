"""What scripts/gpu/sanitize.py runs under compute-sanitizer, and how it knows that no kernel was left out."""
