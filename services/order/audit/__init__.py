"""The audit: compares every order with the participants' books, while the system runs."""
