"""Who calls: tokens, the issuer's keys, and what a caller may do."""
