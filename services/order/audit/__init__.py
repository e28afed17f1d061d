"""The audit: holds every order against the participants' books, while the system runs."""
