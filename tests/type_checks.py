"""Checks arguments and results of all functions of eomt_jax in every test."""

from beartype import BeartypeConf, beartype

# An int is a float, as PEP 484 says.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
