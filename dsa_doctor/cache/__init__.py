"""Answers of slow probes, kept between runs for as long as nothing that can change them has changed."""

from dsa_doctor.cache.keeper import Keeper, keeper_from_environment
from dsa_doctor.cache.store import Store
from dsa_doctor.cache.trace import Trace

__all__ = ["Keeper", "Store", "Trace", "keeper_from_environment"]
