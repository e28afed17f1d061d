"""A service as a process: settings, start and stop, background tasks, exit statuses, logs and traces."""
