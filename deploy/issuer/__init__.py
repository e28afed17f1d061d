"""A token issuer for development: it gives every token to everybody who asks. Never run it where strangers reach it."""
