"""A reference consumer of the order topic, to be copied. README.md says what to copy and in which order to read it."""
