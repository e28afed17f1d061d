"""The relay's rules. They are pure: standard library only, no clock, no input or output."""
