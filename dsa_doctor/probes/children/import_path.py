"""Makes a child import from where the judged environment does. The children import it by its bare name."""

import sys


def follow(search_path: list[str]) -> None:
    """Look into `search_path` first, in its order; what else this interpreter looks into comes after it.

    The order counts: a folder that stands behind site-packages may hold a torch.py, and must not come before torch.
    The children's own folder goes: its scripts bear the names of packages.
    """
    own = sys.path.pop(0)
    sys.path[:] = [*search_path, *(entry for entry in sys.path if entry != own and entry not in search_path)]
