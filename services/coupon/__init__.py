"""The coupon service: coupons, and the orders that reserve and redeem them."""
