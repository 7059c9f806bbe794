"""Training with mmengine: the runner, its hooks, and workarounds for mmengine 0.10.7."""

import os
from unittest import mock

# mmengine imports yapf, which caches its grammar in the home folder and moves the file there before it is complete. A
# process that reads it at that moment fails, and if the writing process is killed then, every later one fails. So yapf
# gets a cache folder that cannot exist, and parses its grammar in every process.
with mock.patch("platformdirs.user_cache_dir", return_value=f"{os.devnull}/cache"):
    import yapf as yapf
