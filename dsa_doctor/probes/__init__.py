"""Probes: the only code that looks at the machine. Each returns an Observation and never raises."""
