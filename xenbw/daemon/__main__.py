"""python3 -m xenbw.daemon is xenbwd."""

import sys

from xenbw.daemon.loop import main

sys.exit(main())
