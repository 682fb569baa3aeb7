"""Map the three top-level folders to one import name; every other fact about the package is in setup.cfg."""

from setuptools import find_packages, setup
from setuptools.command import editable_wheel

FOLDERS = {"neuralde": "neuralde", "neuralde.solvers": "solvers", "neuralde.adjoints": "adjoints"}

# An editable install finds the package by a finder that is asked after the search along sys.path. In the folder that
# contains a clone named neuralde that search succeeds: the clone, which has no __init__.py, passes for a namespace package
# and hides the installed one. So this finder is asked first, and answers where such a namespace would be found.
GUARD = """

class _BeforeNamespaces:
    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        if fullname not in MAPPING or "." in fullname:
            return None
        found = PathFinder.find_spec(fullname, path)
        hidden = found is not None and found.origin is None
        return _EditableFinder.find_spec(fullname, path, target) if hidden else None


_install_finder = install


def install():
    _install_finder()
    if _BeforeNamespaces not in sys.meta_path:
        sys.meta_path.insert(0, _BeforeNamespaces)
"""

finder_template = getattr(editable_wheel, "_finder_template", None)  # not public: without it the install is a plain one
if finder_template is not None:
    editable_wheel._finder_template = lambda *args, **kwargs: finder_template(*args, **kwargs) + GUARD


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
