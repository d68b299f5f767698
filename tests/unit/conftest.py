"""What the unit tests share: no example of a property has to be fast, for a machine may be busy."""

from __future__ import annotations

import hypothesis

hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")
