"""Engines turn batches of jobs into words."""

import os

# ONNX Runtime (from 1.29 on) reports its use to its makers and keeps an id of the machine in the user's cache, as soon
# as it is imported. Who wants that sets the variable to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
