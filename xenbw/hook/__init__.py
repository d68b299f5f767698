"""What Xen's vif scripts call at each start and end of a vif. It is an entry point in the boot path of every VM: no
other room imports it.
"""

_TRIES, _PAUSE = 20, 0.05


def main() -> None:
    """Run the hook. During an upgrade of the package its modules appear one by one: they are waited for, for a second.
    Raises ImportError if they do not appear."""
    for tries_left in reversed(range(_TRIES)):
        try:
            from xenbw.hook.call import main as run
        except ImportError:
            if not tries_left:
                raise
            _wait()
        else:
            run()
            break


def _wait() -> None:
    """Wait a moment, and have Python look again which modules there are."""
    import sys
    import time

    time.sleep(_PAUSE)
    sys.path_importer_cache.clear()
