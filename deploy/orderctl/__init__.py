"""`orderctl`, the command line for operators: it speaks the services' own APIs. See README.md."""
