"""float8 e4m3 as plain bytes: Triton below sm89 refuses the type itself, even for an unused pointer."""
