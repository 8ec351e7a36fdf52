"""dsa_kernels as a library: its version, its types, its public names."""

from pathlib import Path

import dsa_doctor
import dsa_kernels


def test_one_version_for_both_packages():
    assert dsa_kernels.__version__ == dsa_doctor.__version__


def test_both_packages_say_that_they_are_typed():
    for package in (dsa_doctor, dsa_kernels):
        assert (Path(package.__path__[0]) / "py.typed").is_file()


def test_every_public_name_is_there():
    for name in dsa_kernels.__all__:
        assert getattr(dsa_kernels, name) is not None
