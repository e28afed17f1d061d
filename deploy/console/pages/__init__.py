"""The pages, a module each. A module has `PAGE`: its place in the navigation, and its routes."""
