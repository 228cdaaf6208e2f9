"""What holds for all tests."""

import os

from hypothesis import settings

# The same examples at every run, however long they take: a busy machine is no failure, and a new example belongs
# into a run that looks for some (HYPOTHESIS_PROFILE=explore).
settings.register_profile("steady", deadline=None, derandomize=True, database=None)
settings.register_profile("explore", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))
