"""The previous version of each service beside the current version of the others."""
