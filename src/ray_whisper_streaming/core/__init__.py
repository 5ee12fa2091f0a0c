"""The pure core: it never waits, logs or reads a clock. Time comes in as an argument named ``now``."""
