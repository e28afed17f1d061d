"""What product, coupon and balance have in common: the protocol, its tables, its routes and the service around it."""
