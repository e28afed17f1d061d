"""The participants' half of the protocol: rules, gates, execution of commands, routes, and the service's assembly."""
