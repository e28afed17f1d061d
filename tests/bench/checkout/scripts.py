"""The checkout as pgbench scripts: they write the product's rows, one row at a time, and nothing else.

Whatever helps pgbench is done for it: it decides nothing, so nothing is read that no statement returns anyway; it takes
no request, answers nobody, repeats nothing and notifies no relay; and every amount is known before.

saga    five transactions, as the saga's: started, product, coupon (of those that have one), balance, finished
single  the same five, each a single statement that writes all its rows
local   all of it in one transaction, as in an application with one database
"""

from typing import Final

from tests.bench.checkout.catalogue import DISCOUNT, PRICE, PRODUCTS, USERS

SHAPES: Final = ("saga", "single", "local")
STEP = 1000  # as in load.lua
# Ids ascend in time, like the product's: random ids would be scattered over the indexes and cost pgbench more.
SETUP: Final = """
CREATE SCHEMA bench;
CREATE FUNCTION bench.uuid7() RETURNS uuid LANGUAGE sql VOLATILE AS $$
    SELECT (lpad(to_hex((extract(epoch FROM clock_timestamp()) * 1000)::bigint), 12, '0') || '7'
            || substr(replace(gen_random_uuid()::text, '-', ''), 14))::uuid
$$;
"""
# Clients use coupons alternately, each coupon once.
_DRAW: Final = f"""
\\set product1 random(1, {PRODUCTS - 2 * STEP})
\\set product2 :product1 + random(1, {STEP})
\\set product3 :product2 + random(1, {STEP})
\\set lines random(1, 3)
\\set user random(0, {USERS - 1})
\\set discount 0
\\set coupon -1
\\if random(1, 10) <= 3
\\set coupon :first_coupon + :client_id + :used * :clients
\\set used :used + 1
\\set user :coupon % {USERS}
\\set discount {DISCOUNT}
\\endif
"""
_DRAW_HOT: Final = _DRAW.replace("\\set lines random(1, 3)", "\\set lines 1")

_OWNER: Final = "01a1fde5-e6af-7db0-bca6-a861eec69ef2"
_TRACE: Final = "00-758389b09fdd437e9f38c36413797bd8-3d9c8ab29bee7dce-01"
_AT: Final = "2026-11-21T11:37:45.268574Z"


def script(shape: str, *, hot: bool) -> str:
    """Return the script of a checkout in this shape."""
    draw = _DRAW_HOT if hot else _DRAW
    amounts = f"\\set subtotal :lines * {PRICE}\n\\set amount :subtotal - :discount\n"
    body = _single(hot=hot) if shape == "single" else _separate(hot=hot, local=shape == "local")
    return draw + amounts + body


def product(number: int, *, hot: bool) -> str:
    """Return the expression of a line's product."""
    return "'hot'" if hot else f"('p-' || :product{number}::text)"


def lines(*, hot: bool, priced: bool) -> str:
    """Return the expression of an order's lines as JSON text."""
    one = '{{"product_id":"{}","quantity":1{}}}'
    price = ',"name":"{}","unit_price":' + str(PRICE) if priced else ""
    if hot:
        return "'[" + one.format("hot", price.format("The one that all want")) + "]'"
    names = one.format("p-%s", price.format("Product %s"))
    cases = []
    for count in (1, 2, 3):
        numbers = [f":product{n}::text" for n in range(1, count + 1) for _ in range(2 if priced else 1)]
        cases.append(f"WHEN {count} THEN format('[{','.join([names] * count)}]', {', '.join(numbers)})")
    return f"(CASE :lines::int {' '.join(cases)} END)"


def payload() -> str:
    """Return the expression of an event's bytes; they are as long as the product's with the same number of lines."""
    line = len('{"product_id":"p-1579","name":"Product 1579","quantity":1,"unit_price":1000,"line_amount":1000},')
    rest = 310
    cases = " ".join(f"WHEN {count} THEN '{'x' * (rest + count * line)}'" for count in (1, 2, 3))
    return f"convert_to(CASE :lines::int {cases} END, 'UTF8')"


def saga_log(*, coupon: str) -> str:
    """Return the expression of the saga's log."""

    def entries(*steps: str) -> str:
        return "[" + ",".join(f'{{"at":"{_AT}","step":"{step}","outcome":"applied"}}' for step in steps) + "]"

    without, whole = entries("hold_stock", "debit"), entries("hold_stock", "redeem_coupon", "debit")
    return f"(CASE WHEN {coupon} THEN '{whole}' ELSE '{without}' END)::jsonb"


_USER: Final = "('u-' || :user::text)"
_COUPON: Final = "(CASE WHEN :coupon::int >= 0 THEN 'c-' || :coupon::text END)"
_HAS_COUPON: Final = ":coupon::int >= 0"


def _insert_order(*, hot: bool) -> str:
    return (
        "INSERT INTO orders.orders "
        "(order_id, user_id, status, lines, coupon_id, currency, payment_attempt, created_at) "
        f"VALUES (bench.uuid7(), {_USER}, 'PLACING', {lines(hot=hot, priced=False)}::jsonb, {_COUPON}, 'KRW', 1, "
        "clock_timestamp()) RETURNING order_id"
    )


def _insert_saga(order_id: str, source: str = "") -> str:
    return (
        "INSERT INTO orders.sagas (saga_id, order_id, kind, version, status, attempt, owner, traceparent, started_at) "
        f"SELECT bench.uuid7(), {order_id}, 'place_now', 1, 'RUNNING', 1, '{_OWNER}'::uuid, '{_TRACE}', "
        f"clock_timestamp() {source} RETURNING saga_id"
    )


def _gate(schema: str) -> str:
    return f"INSERT INTO {schema}.gates (order_id) VALUES (:order_id)"


def _outcome(schema: str, kind: str, attempt: int, body: str, source: str = "") -> str:
    return (
        f"INSERT INTO {schema}.outcomes (order_id, type, attempt, applied, body) "
        f"SELECT :order_id::uuid, '{kind}', {attempt}, true, ({body})::jsonb {source}"
    )


def _hold_lines(*, hot: bool) -> str:
    text = ""
    for number in (1, 2, 3):
        name = product(number, hot=hot)
        text += f"\\if :lines >= {number}\n"
        text += f"UPDATE products.products SET stock = stock - 1 WHERE product_id = {name} AND stock >= 1;\n"
        text += "INSERT INTO products.holds (order_id, product_id, quantity, unit_price) "
        text += f"VALUES (:order_id, {name}, 1, {PRICE});\n\\endif\n"
        if hot:
            break
    return text


_REDEEM: Final = (
    f"UPDATE coupons.coupons SET status = 'REDEEMED', order_id = :order_id, discount_amount = {DISCOUNT}, "
    f"held_at = now() WHERE coupon_id = {_COUPON} AND status = 'AVAILABLE'"
)
_DEBIT: Final = (
    "UPDATE balances.accounts SET balance = balance - :amount, entry_count = entry_count + 1 "
    f"WHERE user_id = {_USER} AND balance >= :amount RETURNING entry_count, balance"
)


def _entry(number: str, balance: str, source: str = "") -> str:
    return (
        "INSERT INTO balances.entries (user_id, number, entry_id, kind, amount, counter_account, order_id, attempt, "
        f"balance_after) SELECT {_USER}, {number}, bench.uuid7(), 'debit', - :amount::bigint, 'sales', "
        f":order_id::uuid, 1, {balance} {source}"
    )


_END_SAGA: Final = (
    f"UPDATE orders.sagas SET status = 'DONE', log = {saga_log(coupon=_HAS_COUPON)}, ended_at = clock_timestamp() "
    "WHERE saga_id = :saga_id AND status = 'RUNNING'"
)
_EVENT: Final = (
    "INSERT INTO orders.outbox (event_id, order_id, sequence, type, payload, traceparent) "
    f"VALUES (bench.uuid7(), :order_id, 1, 'order.paid.v1', {payload()}, '{_TRACE}')"
)


def _end_order(*, hot: bool) -> str:
    return (
        f"UPDATE orders.orders SET status = 'PAID', lines = {lines(hot=hot, priced=True)}::jsonb, "
        "subtotal_amount = :subtotal, discount_amount = :discount, total_amount = :amount, "
        "event_sequence = event_sequence + 1, paid_at = clock_timestamp() "
        "WHERE order_id = :order_id AND status = 'PLACING'"
    )


def _held(*, hot: bool) -> str:
    return f"""'{{"lines":' || {lines(hot=hot, priced=True)} || '}}'"""


def _separate(*, hot: bool, local: bool) -> str:
    """Statement by statement; `local`: without the commits in between."""
    between = "" if local else "COMMIT;\nBEGIN;\n"
    before_coupon = "" if local else "BEGIN;\n"
    after_coupon = "" if local else "COMMIT;\n"
    return (
        f"BEGIN;\n{_insert_order(hot=hot)} \\gset\n{_insert_saga(':order_id::uuid')} \\gset\n{between}"
        f"{_gate('products')};\n{_hold_lines(hot=hot)}{_outcome('products', 'hold_stock', 0, _held(hot=hot))};\n"
        f"{after_coupon}"
        f"\\if :coupon >= 0\n{before_coupon}{_gate('coupons')};\n{_REDEEM};\n"
        f"{_outcome('coupons', 'redeem_coupon', 0, _discount_body())};\n{after_coupon}\\endif\n"
        f"{before_coupon}{_gate('balances')};\n{_DEBIT} \\gset\n"
        f"{_entry(':entry_count::bigint', ':balance::bigint')};\n"
        f"{_outcome('balances', 'debit', 1, _balance_body(':balance::text'))};\n{between}"
        f"{_END_SAGA};\n{_end_order(hot=hot)};\n{_EVENT};\nCOMMIT;\n"
    )


def _single(*, hot: bool) -> str:
    """Return the script with one statement per transaction."""
    names = "ARRAY['hot']" if hot else "(ARRAY[" + ", ".join(product(n, hot=hot) for n in (1, 2, 3)) + "])[1:{}]"
    held = ""
    for count in (1,) if hot else (1, 2, 3):
        held += f"\\if :lines = {count}\n" if not hot else ""
        held += (
            f"WITH gate AS ({_gate('products')}), taken AS (UPDATE products.products SET stock = stock - 1 "
            f"WHERE product_id = ANY ({names.format(count)}) AND stock >= 1 RETURNING product_id, price), "
            "held AS (INSERT INTO products.holds (order_id, product_id, quantity, unit_price) "
            f"SELECT :order_id::uuid, product_id, 1, price FROM taken) "
            f"{_outcome('products', 'hold_stock', 0, _held(hot=hot))};\n"
        )
        held += "\\endif\n" if not hot else ""
    return (
        f"WITH placed AS ({_insert_order(hot=hot)}), begun AS ({_insert_saga('order_id', 'FROM placed')}) "
        "SELECT order_id, saga_id FROM placed, begun \\gset\n"
        f"{held}"
        f"\\if :coupon >= 0\nWITH gate AS ({_gate('coupons')}), redeemed AS ({_REDEEM}) "
        f"{_outcome('coupons', 'redeem_coupon', 0, _discount_body())};\n\\endif\n"
        f"WITH gate AS ({_gate('balances')}), debited AS ({_DEBIT}), "
        f"entry AS ({_entry('entry_count', 'balance', 'FROM debited')}) "
        f"{_outcome('balances', 'debit', 1, _balance_body('balance'), 'FROM debited')};\n"
        f"WITH ended AS ({_END_SAGA}), paid AS ({_end_order(hot=hot)}) {_EVENT};\n"
    )


def _discount_body() -> str:
    return f"""'{{"discount_amount":{DISCOUNT}}}'"""


def _balance_body(balance: str) -> str:
    return f"""'{{"balance":' || {balance} || '}}'"""
