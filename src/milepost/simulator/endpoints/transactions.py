"""Transactions and transaction batches.

Only reading a transaction is documented with its answer; paths are from an official list, the
bodies of what makes transactions and batches were seen in several clients, the rest is inferred.
"""

from __future__ import annotations

from milepost.simulator import transactions
from milepost.simulator.call import Call, Endpoint, writes
from milepost.simulator.things import Batch, BatchEntry, Transaction
from milepost.simulator.wire import second


def _transaction(found: Transaction) -> dict[str, object]:
    return {
        "contactId": found.contact_id,
        "mailingListId": found.list_id,
        "transactionDate": found.date,
        "data": found.data,
        "transactionId": found.id,
    }


async def transaction(call: Call) -> object:
    """One transaction, with its data (documented)."""
    return _transaction(transactions.transaction(call.account.world, call.ids))


async def contact_transactions(call: Call) -> object:
    """A contact's transactions, in the order in which they were made."""
    return call.paged(transactions.of_contact(call.account.world, call.ids), _transaction)


def _batch(found: Batch) -> dict[str, object]:
    return {"batchId": found.id, "creationDate": second(found.created_at)}


async def create_batch(call: Call) -> object | None:
    """A batch made; a body that is not there is as good as an empty one."""
    call.body = call.body or b"{}"
    return await call.write("transaction_batch.create")


async def batches(call: Call) -> object:
    """The batches of the directory."""
    world = call.account.world
    world.check_directory(call.ids["directory"])
    return call.paged(world.batches.in_order, _batch)


async def batch(call: Call) -> object:
    """One batch."""
    return _batch(transactions.batch(call.account.world, call.ids))


async def batch_transactions(call: Call) -> object:
    """The transactions of a batch, in the order in which they were added."""
    world = call.account.world

    def element(entry: BatchEntry) -> dict[str, object]:
        return _transaction(world.transactions[entry.id])

    return call.paged(transactions.batch(world, call.ids).entries.in_order, element)


_DIRECTORY = "/directories/{directory:str}"
_TRANSACTIONS = f"{_DIRECTORY}/transactions"
_TRANSACTION = f"{_TRANSACTIONS}/{{transaction:str}}"
_OF_CONTACT = f"{_DIRECTORY}/contacts/{{contact:str}}/transactions"
_BATCHES = f"{_DIRECTORY}/transactionbatches"
_BATCH = f"{_BATCHES}/{{batch:str}}"
_ENTRIES = f"{_BATCH}/transactions"
_ENTRY = f"{_ENTRIES}/{{transaction:str}}"

ENDPOINTS = (
    Endpoint("POST", _TRANSACTIONS, "transactions", writes("transaction.create")),
    Endpoint("GET", _TRANSACTION, "transactions", transaction),
    Endpoint("POST", _TRANSACTION, "transactions", writes("transaction.append")),
    Endpoint("PUT", _TRANSACTION, "transactions", writes("transaction.update")),
    Endpoint("DELETE", _TRANSACTION, "transactions", writes("transaction.delete")),
    Endpoint("GET", _OF_CONTACT, "transactions", contact_transactions),
    Endpoint("POST", _BATCHES, "transaction_batches", create_batch),
    Endpoint("GET", _BATCHES, "transaction_batches", batches),
    Endpoint("GET", _BATCH, "transaction_batches", batch),
    Endpoint("DELETE", _BATCH, "transaction_batches", writes("transaction_batch.delete")),
    Endpoint("POST", _ENTRIES, "batch_transactions", writes("transaction_batch.add")),
    Endpoint("GET", _ENTRIES, "batch_transactions", batch_transactions),
    Endpoint("DELETE", _ENTRY, "batch_transactions", writes("transaction_batch.remove")),
)
