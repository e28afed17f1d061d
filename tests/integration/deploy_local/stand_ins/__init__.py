"""Small processes in the place of the five services: they answer what the supervisor asks."""
