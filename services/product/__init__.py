"""The product service: products, their prices and their stock, and the holds that orders have on it."""
