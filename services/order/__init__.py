"""The order service: orders, and the sagas that carry each through checkout, payment and closing."""
