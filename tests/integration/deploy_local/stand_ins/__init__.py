"""Small processes that replace the five services: they answer the supervisor's requests."""
