"""Map the three top-level folders to one import name; every other fact about the package is in setup.cfg."""

from setuptools import find_packages, setup

FOLDERS = {"neuralde": "neuralde", "neuralde.solvers": "solvers", "neuralde.adjoints": "adjoints"}


def packages() -> list[str]:
    """Every package under the three folders, by its import name.

    The development links ``neuralde/solvers`` and ``neuralde/adjoints`` are left out, so that a folder is never
    listed twice.
    """
    found = []
    for name, folder in FOLDERS.items():
        found.append(name)
        found += [f"{name}.{inner}" for inner in find_packages(folder, exclude=["solvers*", "adjoints*"])]
    return found


setup(package_dir=FOLDERS, packages=packages())
