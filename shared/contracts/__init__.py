"""The wire models that two services must agree on; version 1 of each is fixed, fields are only ever added."""
