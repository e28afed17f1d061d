"""The balance service: prepaid accounts and the ledger of what went in and out of them."""
