"""python3 -m xenbw.daemon is xenbwd."""

import sys

from xenbw.daemon.loop import main

if __name__ == "__main__":
    sys.exit(main())
