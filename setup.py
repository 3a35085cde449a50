"""What pyproject.toml cannot say: the tiny model's folder is a package of its own in the wheel."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["diffusers_helper*"]), "framepack_tiny"],
    package_dir={"framepack_tiny": "assets/tiny"},
)
