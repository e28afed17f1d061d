"""The console: pages in which operators see and repair the platform, over the services' own APIs. See README.md."""
