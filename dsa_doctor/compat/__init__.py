"""All knowledge of vLLM's insides: what is relied on, why, and how its absence is noticed."""
