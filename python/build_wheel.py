"""maturin, without the flags of the workspace around: its programs are static, a module of Python's is not."""

import os

os.environ.setdefault("RUSTFLAGS", "-C target-feature=-crt-static")

from maturin import *  # noqa: E402, F403
