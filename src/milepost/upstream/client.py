"""The verbs of the survey platform that Milepost uses, each one HTTP call, typed at both ends.

A verb that creates or changes something is sent once and ends in one of three ways that a caller
can act on: it returns, nothing happened (`Refused`, `Unreachable`), or nobody knows
(`UnknownOutcome`). A verb that reads may be tried again inside its deadline. Lists are read page by
page as they are iterated, each page being a read of its own.

Paths and bodies follow the platform's documentation where nothing else is said.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import parse_qs, quote, urlsplit

import msgspec

from milepost.upstream.call import CallClass, Caller, Gate, Request
from milepost.upstream.credentials import Credentials
from milepost.upstream.errors import Refused, UnknownOutcome, Unreadable
from milepost.upstream.wire import (
    Account,
    AddedContact,
    Bare,
    BatchEntry,
    BatchId,
    Contact,
    ContactFields,
    ContactId,
    CountedDistribution,
    CreatedTransactions,
    Directory,
    Distribution,
    DistributionBody,
    DistributionId,
    Envelope,
    FoundContact,
    HistoryEntry,
    ImportBody,
    ImportId,
    ImportProgress,
    ItemRefusal,
    ListContact,
    ListedLink,
    ListId,
    Made,
    MailingList,
    MailingListBody,
    Page,
    ReadPage,
    RefFilter,
    SearchBody,
    Subscription,
    SubscriptionBody,
    SubscriptionId,
    Survey,
    SurveyDefinition,
    SurveyResponse,
    Transaction,
    TransactionAnswers,
    TransactionBatch,
    TransactionBody,
    TransactionFields,
    TransactionIdsBody,
    path_id,
    utc_seconds,
    zulu,
)

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

T = TypeVar("T")

DEADLINE: Final = 10.0
"""Seconds for all of one call: half a claim's lease of 20 s, and more than the longest deadline of
8 s that a caller of ours may set, so that a slow call can still settle behind the answer."""

MOST_PAGES: Final = 20_000
"""Of one listing: two million rows at the platform's 100 a page, twice the largest deployment."""

MOST_PARAMETERS: Final = 50
LONGEST_CURSOR: Final = 2_048
"""Characters. Every cursor that was seen is an id or a number; servers refuse longer lines."""

_CURSORS: Final = ("skipToken", "offset")
_NO_RECIPIENTS: Final = "CP_TD_GER_NP"
_SUBSCRIPTION_PATH: Final = "/eventsubscriptions"

_encode: Final = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder

_ACCOUNT: Final = _decoder(Envelope[Account])
_DIRECTORIES: Final = _decoder(Envelope[Page[Directory]])
_LIST: Final = _decoder(Envelope[MailingList])
_LISTS: Final = _decoder(Envelope[Page[MailingList]])
_LIST_MADE: Final = _decoder(Envelope[Made[ListId]])
_ADDED: Final = _decoder(Envelope[AddedContact])
_LIST_CONTACT: Final = _decoder(Envelope[ListContact])
_LIST_CONTACTS: Final = _decoder(Envelope[Page[ListContact]])
_IMPORT_STARTED: Final = _decoder(Envelope[Made[ImportId]])
_IMPORT: Final = _decoder(Envelope[ImportProgress])
_CONTACT: Final = _decoder(Envelope[Contact])
_CONTACT_MADE: Final = _decoder(Envelope[Made[ContactId]])
_FOUND: Final = _decoder(Envelope[Page[FoundContact]])
_TRANSACTIONS_MADE: Final = _decoder(Envelope[TransactionAnswers])
_TRANSACTION: Final = _decoder(Envelope[Transaction])
_TRANSACTIONS: Final = _decoder(Envelope[Page[Transaction]])
_BATCH_MADE: Final = _decoder(Envelope[Made[BatchId]])
_BATCH: Final = _decoder(Envelope[Page[BatchEntry]])
_BATCHES: Final = _decoder(Envelope[Page[TransactionBatch]])
_DISTRIBUTION_MADE: Final = _decoder(Envelope[Made[DistributionId]])
_DISTRIBUTION: Final = _decoder(Envelope[CountedDistribution])
_DISTRIBUTIONS: Final = _decoder(Envelope[Page[Distribution]])
_LINKS: Final = _decoder(Envelope[Page[ListedLink]])
_HISTORY: Final = _decoder(Envelope[Page[HistoryEntry]])
_SURVEYS: Final = _decoder(Envelope[Page[Survey]])
_DEFINITION: Final = _decoder(Envelope[SurveyDefinition])
_RESPONSE: Final = _decoder(Envelope[SurveyResponse])
_SUBSCRIBED: Final = _decoder(Envelope[Made[SubscriptionId]])
_SUBSCRIPTIONS: Final = _decoder(Envelope[Page[Subscription]])
_DONE: Final = _decoder(Bare)


class Upstream:
    """The client of one account; safe to share between tasks of one event loop.

    Every verb raises `UpstreamError`s as `upstream/errors.py` draws them, and `ValueError` for an
    argument that could not be sent, such as an id of another kind.

    Args:
        base_url: `https://{datacenter}.qualtrics.com/API/v3`, or an `http` one of this machine.
        credentials: An API token, or an OAuth client. They go to the origin of `base_url` only.
        deadline: Seconds for all of one call: waiting for a connection, and all tries of a read.
        max_connections: Calls that may be under way at once; others wait inside their deadline.
        gate: What each request passes before it is sent; None: all pass.

    Raises:
        ConfigurationError: The address is neither https nor on this machine, or the credentials
            cannot stand in a header.
    """

    def __init__(
        self,
        base_url: str,
        credentials: Credentials,
        *,
        deadline: float = DEADLINE,
        max_connections: int = 100,
        gate: Gate | None = None,
    ) -> None:
        self._caller = Caller(
            base_url, credentials, deadline=deadline, max_connections=max_connections, gate=gate
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._caller.aclose()

    @property
    def notices(self) -> tuple[str, ...]:
        """What answers said about our use of the platform, each once, in at most 200 characters.

        A data centre that is not the account's own answers by proxy, and says so (observed).
        """
        return self._caller.notices

    @property
    def clock_ahead(self) -> float | None:
        """Seconds by which the platform's clock was ahead of ours at its last answer.

        In whole seconds of theirs, and less the answer's way to us; None before any answer.
        """
        return self._caller.clock_ahead

    # --- the account ----------------------------------------------------------------------------

    async def whoami(self) -> Account:
        """Say whose token it is."""
        return (
            await self._caller.read(Request("whoami", "account", "GET", "/whoami"), _ACCOUNT)
        ).result

    async def directories(self) -> list[Directory]:
        """List the account's directories, with the criteria by which each merges contacts."""
        pages = self._elements("directories", "directories", "/directories", _DIRECTORIES)
        return [directory async for directory in pages]

    # --- mailing lists --------------------------------------------------------------------------

    async def create_mailing_list(self, directory_id: str, name: str) -> str:
        """Make a mailing list and return its id, `CG_…`; a name has at most 100 characters."""
        path = f"{_directory(directory_id)}/mailinglists"
        body = _encode(MailingListBody(name))
        request = Request("create_mailing_list", "mailing_lists", "POST", path, body)
        return (await self._caller.write(request, _LIST_MADE)).result.id

    def mailing_lists(self, directory_id: str) -> AsyncIterator[MailingList]:
        """Iterate over a directory's lists.

        Beyond 10,000 lists a directory stops listing them (documented).
        """
        path = f"{_directory(directory_id)}/mailinglists?pageSize=100"
        return self._elements("mailing_lists", "mailing_lists", path, _LISTS)

    async def mailing_list(self, directory_id: str, list_id: str) -> MailingList:
        """Read one list of a directory."""
        path = _list(directory_id, list_id)
        request = Request("mailing_list", "mailing_lists", "GET", path)
        return (await self._caller.read(request, _LIST)).result

    async def delete_mailing_list(self, directory_id: str, list_id: str) -> None:
        """Delete a list; every link of every distribution on it is dead then (observed)."""
        request = Request(
            "delete_mailing_list", "mailing_lists", "DELETE", _list(directory_id, list_id)
        )
        await self._caller.write(request, _DONE)

    # --- contacts in a list ---------------------------------------------------------------------

    async def add_list_contact(
        self, directory_id: str, list_id: str, contact: ContactFields
    ) -> AddedContact:
        """Add a person to a list: the one call that a link of the `list` route takes.

        With merging on, the contact that has the same values in the directory's criteria is
        changed (documented), so every field of the criteria must be in `contact`; with merging off
        another contact is made (documented). The same person again gets the same lookup id, and
        the data are overwritten (inferred).
        """
        path = _list(directory_id, list_id) + "/contacts"
        request = Request("add_list_contact", "list_contacts", "POST", path, _encode(contact))
        return (await self._caller.write(request, _ADDED)).result

    def list_contacts(
        self, directory_id: str, list_id: str, *, include_embedded: bool = False
    ) -> AsyncIterator[ListContact]:
        """Iterate over the contacts of a list, with their lookup ids.

        Args:
            directory_id: `POOL_…`.
            list_id: `CG_…`.
            include_embedded: With the embedded data of each (observed).
        """
        path = _list(directory_id, list_id) + "/contacts?pageSize=100"
        if include_embedded:
            path += "&includeEmbedded=true"
        return self._elements("list_contacts", "list_contacts", path, _LIST_CONTACTS)

    def list_contact_pages(
        self, directory_id: str, list_id: str, *, cursor: str | None = None
    ) -> AsyncIterator[ReadPage[ListContact]]:
        """Iterate over the pages of a list's contacts, as `list_contacts` over the contacts.

        Args:
            directory_id: `POOL_…`.
            list_id: `CG_…`.
            cursor: That of an earlier page: begin behind it. For how long the platform knows a
                cursor is not known; one that it does not know is a refusal.
        """
        path = _list(directory_id, list_id) + "/contacts?pageSize=100"
        return self._pages(
            "list_contact_pages", "list_contacts", path, _LIST_CONTACTS, cursor=cursor
        )

    async def get_list_contact(
        self, directory_id: str, list_id: str, contact_id: str
    ) -> ListContact:
        """Read one contact of a list (observed)."""
        path = _list_contact(directory_id, list_id, contact_id)
        request = Request("get_list_contact", "list_contacts", "GET", path)
        return (await self._caller.read(request, _LIST_CONTACT)).result

    async def update_list_contact(
        self, directory_id: str, list_id: str, contact_id: str, fields: ContactFields
    ) -> None:
        """Change what a list knows of a contact; what is None is left as it is.

        The platform refuses keys beyond those of `ContactFields`, and nulls (observed).
        """
        path = _list_contact(directory_id, list_id, contact_id)
        request = Request("update_list_contact", "list_contacts", "PUT", path, _encode(fields))
        await self._caller.write(request, _DONE)

    async def remove_list_contact(self, directory_id: str, list_id: str, contact_id: str) -> None:
        """Take a contact out of a list; the directory keeps them (documented)."""
        path = _list_contact(directory_id, list_id, contact_id)
        request = Request("remove_list_contact", "list_contacts", "DELETE", path)
        await self._caller.write(request, _DONE)

    async def start_import(
        self, directory_id: str, list_id: str, contacts: Sequence[ContactFields]
    ) -> str:
        """Begin to bring many contacts into a list, and return the import's id, `PGRS_…`.

        It goes on at the platform, one import at a time for each list (documented), and tells no
        lookup ids: page the list afterwards. A thousand contacts at once are in use (observed);
        whether 10,000 are taken is not known. Path and body have been seen in clients only.

        Raises:
            ValueError: A contact has private data, which no import is known to take.
        """
        path = _list(directory_id, list_id) + "/transactioncontacts"
        for contact in contacts:
            _without_private(contact)
        request = Request("start_import", "imports", "POST", path, _encode(ImportBody(contacts)))
        return (await self._caller.write(request, _IMPORT_STARTED)).result.id

    async def import_progress(
        self, directory_id: str, list_id: str, import_id: str
    ) -> ImportProgress:
        """Read how far an import is."""
        path = f"{_list(directory_id, list_id)}/transactioncontacts/{path_id('PGRS', import_id)}"
        request = Request("import_progress", "imports", "GET", path)
        return (await self._caller.read(request, _IMPORT)).result

    # --- contacts of the directory --------------------------------------------------------------

    async def create_contact(self, directory_id: str, contact: ContactFields) -> str:
        """Make a contact that is in no list, and return its id, `CID_…`.

        With merging on it may be that of a contact who was there before (documented).

        Raises:
            ValueError: It has private data, which belong to a list.
        """
        path = f"{_directory(directory_id)}/contacts"
        body = _encode(_without_private(contact))
        request = Request("create_contact", "directory_contacts", "POST", path, body)
        return (await self._caller.write(request, _CONTACT_MADE)).result.id

    async def get_contact(self, directory_id: str, contact_id: str) -> Contact:
        """Read one contact of the directory, with the lists that they are in."""
        path = _contact(directory_id, contact_id)
        request = Request("get_contact", "directory_contacts", "GET", path)
        return (await self._caller.read(request, _CONTACT)).result

    async def update_contact(
        self, directory_id: str, contact_id: str, fields: ContactFields
    ) -> None:
        """Change what the directory knows of a contact; what is None is left as it is.

        Raises:
            ValueError: There are private data among it, which belong to a list.
        """
        path = _contact(directory_id, contact_id)
        body = _encode(_without_private(fields))
        request = Request("update_contact", "directory_contacts", "PUT", path, body)
        await self._caller.write(request, _DONE)

    async def delete_contact(self, directory_id: str, contact_id: str) -> None:
        """Delete a contact from the directory, and so from every list."""
        path = _contact(directory_id, contact_id)
        request = Request("delete_contact", "directory_contacts", "DELETE", path)
        await self._caller.write(request, _DONE)

    def opted_out_pages(
        self, directory_id: str, *, cursor: str | None = None
    ) -> AsyncIterator[ReadPage[FoundContact]]:
        """Iterate over the pages of contacts who opted out of the directory (observed).

        Args:
            directory_id: `POOL_…`.
            cursor: That of an earlier page, as in `list_contact_pages`.
        """
        path = f"{_directory(directory_id)}/contacts/optedOutContacts?pageSize=100"
        return self._pages("opted_out_pages", "directory_contacts", path, _FOUND, cursor=cursor)

    def search_contacts(self, directory_id: str, *, ref: str) -> AsyncIterator[FoundContact]:
        """Iterate over the contacts whose `extRef` is `ref`.

        How soon a search finds a contact that was just made is not known.
        """
        path = f"{_directory(directory_id)}/contacts/search?pageSize=100"
        body = _encode(SearchBody(RefFilter(ref)))
        return self._elements("search_contacts", "directory_contacts", path, _FOUND, body=body)

    # --- transactions ---------------------------------------------------------------------------

    async def create_transactions(
        self, directory_id: str, wanted: Mapping[str, TransactionFields]
    ) -> CreatedTransactions:
        """Make transactions of contacts who are in a list; each has a key of the caller's choice.

        Some may be refused while the others are made. How many a call takes is not known, and what
        is too many may be told by a refusal or by 413. The form has been seen in one client only.

        Raises:
            UnknownOutcome: Also where the answer names keys that were not sent.
        """
        verb = "create_transactions"
        body = {
            key: TransactionBody(
                contact_id=path_id("CID", fields.contact_id),
                mailing_list_id=path_id("CG", fields.list_id),
                transaction_date=utc_seconds(fields.at),
                data=fields.data,
            )
            for key, fields in wanted.items()
        }
        path = f"{_directory(directory_id)}/transactions"
        request = Request(verb, "transactions", "POST", path, _encode(body))
        answers = (await self._caller.write(request, _TRANSACTIONS_MADE)).result
        created = {key: made.id for key, made in (answers.created_transactions or {}).items()}
        refused = answers.unprocessed_transactions or {}
        told = created.keys() | refused.keys()
        is_clear = len(told) == len(created) + len(refused)
        if not (told <= wanted.keys() and is_clear and len(set(created.values())) == len(created)):
            raise UnknownOutcome(verb, "the answer tells of other transactions", "no-result")
        return CreatedTransactions(
            created=created,
            refused={key: ItemRefusal.read(note) for key, note in refused.items()},
            untold=frozenset(wanted.keys() - told),
        )

    async def transaction(self, directory_id: str, transaction_id: str) -> Transaction:
        """Read one transaction."""
        path = _transaction(directory_id, transaction_id)
        request = Request("transaction", "transactions", "GET", path)
        return (await self._caller.read(request, _TRANSACTION)).result

    def contact_transactions(
        self, directory_id: str, contact_id: str
    ) -> AsyncIterator[Transaction]:
        """Iterate over the transactions of one contact."""
        path = f"{_contact(directory_id, contact_id)}/transactions?pageSize=100"
        return self._elements("contact_transactions", "transactions", path, _TRANSACTIONS)

    async def delete_transaction(self, directory_id: str, transaction_id: str) -> None:
        """Delete a transaction."""
        path = _transaction(directory_id, transaction_id)
        request = Request("delete_transaction", "transactions", "DELETE", path)
        await self._caller.write(request, _DONE)

    async def create_batch(self, directory_id: str, transaction_ids: Sequence[str] = ()) -> str:
        """Make a batch of transactions, or an empty one, and return its id, `BT_…`."""
        path = f"{_directory(directory_id)}/transactionbatches"
        body = _transaction_ids(transaction_ids) if transaction_ids else b"{}"
        request = Request("create_batch", "transaction_batches", "POST", path, body)
        return (await self._caller.write(request, _BATCH_MADE)).result.id

    async def add_to_batch(
        self, directory_id: str, batch_id: str, transaction_ids: Sequence[str]
    ) -> None:
        """Add transactions to a batch (seen in clients, undocumented)."""
        path = f"{_batch(directory_id, batch_id)}/transactions"
        body = _transaction_ids(transaction_ids)
        request = Request("add_to_batch", "batch_transactions", "POST", path, body)
        await self._caller.write(request, _DONE)

    async def batch_transactions(self, directory_id: str, batch_id: str) -> AsyncIterator[str]:
        """Iterate over the ids, `CTR_…`, of a batch's transactions."""
        path = f"{_batch(directory_id, batch_id)}/transactions?pageSize=100"
        async for entry in self._elements("batch_transactions", "batch_transactions", path, _BATCH):
            yield entry.transaction_id

    def batch_pages(
        self, directory_id: str, batch_id: str, *, cursor: str | None = None
    ) -> AsyncIterator[ReadPage[BatchEntry]]:
        """Iterate over the pages of a batch's transactions, with what is said of each.

        Args:
            directory_id: `POOL_…`.
            batch_id: `BT_…`.
            cursor: That of an earlier page, as in `list_contact_pages`.
        """
        path = f"{_batch(directory_id, batch_id)}/transactions?pageSize=100"
        return self._pages("batch_pages", "batch_transactions", path, _BATCH, cursor=cursor)

    def batches(self, directory_id: str) -> AsyncIterator[TransactionBatch]:
        """Iterate over a directory's batches, everybody's among them (official path list)."""
        path = f"{_directory(directory_id)}/transactionbatches?pageSize=100"
        return self._elements("batches", "transaction_batches", path, _BATCHES)

    async def delete_batch(self, directory_id: str, batch_id: str) -> None:
        """Delete a batch. Whether its transactions and their links outlive it is not known."""
        path = _batch(directory_id, batch_id)
        request = Request("delete_batch", "transaction_batches", "DELETE", path)
        await self._caller.write(request, _DONE)

    # --- distributions and links ----------------------------------------------------------------

    async def create_distribution(
        self,
        survey_id: str,
        mailing_list_id: str,
        description: str,
        expires_at: datetime,
        *,
        contact_id: str | None = None,
    ) -> str:
        """Make a distribution of individual links that nobody is sent; return its id, `EMD_…`.

        The survey must be active (documented).

        Args:
            survey_id: `SV_…`.
            mailing_list_id: `CG_…`.
            description: What the platform's pages show of it.
            expires_at: 90 days from now were accepted (observed); the maximum is not known.
            contact_id: For this one contact of the list alone: their lookup id in it, `CGC_…`
                (observed under this name).
        """
        return await self._distribute(
            "create_distribution",
            DistributionBody(
                survey_id=path_id("SV", survey_id),
                mailing_list_id=path_id("CG", mailing_list_id),
                contact_id=None if contact_id is None else path_id("CGC", contact_id),
                description=description,
                expiration_date=zulu(expires_at),
                action="CreateDistribution",
                link_type="Individual",
            ),
        )

    async def create_batch_distribution(
        self, survey_id: str, batch_id: str, description: str, expires_at: datetime
    ) -> str:
        """Make a distribution of individual links for the transactions of a batch; return its id.

        Documented, and said to be refused by some accounts.
        """
        return await self._distribute(
            "create_batch_distribution",
            DistributionBody(
                survey_id=path_id("SV", survey_id),
                transaction_batch_id=path_id("BT", batch_id),
                description=description,
                expiration_date=zulu(expires_at),
                action="CreateTransactionBatchDistribution",
                link_type="Individual",
            ),
        )

    async def _distribute(self, verb: str, body: DistributionBody) -> str:
        request = Request(verb, "distributions", "POST", "/distributions", _encode(body))
        return (await self._caller.write(request, _DISTRIBUTION_MADE)).result.id

    async def distribution(self, distribution_id: str, survey_id: str) -> CountedDistribution:
        """Read one distribution, with what became of its links as counts."""
        path = f"{_distribution(distribution_id)}?surveyId={path_id('SV', survey_id)}"
        request = Request("distribution", "distributions", "GET", path)
        return (await self._caller.read(request, _DISTRIBUTION)).result

    async def delete_distribution(self, distribution_id: str) -> None:
        """Delete a distribution, and with it its links (inferred)."""
        path = _distribution(distribution_id)
        request = Request("delete_distribution", "distributions", "DELETE", path)
        await self._caller.write(request, _DONE)

    def distributions(self, survey_id: str) -> AsyncIterator[Distribution]:
        """Iterate over a survey's distributions, everybody's among them."""
        path = f"/distributions?surveyId={path_id('SV', survey_id)}"
        return self._elements("distributions", "distributions", path, _DISTRIBUTIONS)

    def distribution_links(self, distribution_id: str, survey_id: str) -> AsyncIterator[ListedLink]:
        """Iterate over the links of a distribution.

        Reading them updates the frequency rules of every contact in them (documented), so only
        lists that hold nobody but our probe are to be read. A list has been seen incomplete for
        more than 48 hours (observed).
        """
        path = f"{_distribution(distribution_id)}/links?surveyId={path_id('SV', survey_id)}"
        return self._elements("distribution_links", "links", path, _LINKS)

    async def history(self, distribution_id: str) -> AsyncGenerator[HistoryEntry, None]:
        """Iterate over what became of a distribution's links, as `history_pages` over the pages."""
        async with aclosing(self.history_pages(distribution_id)) as pages:
            async for page in pages:
                for entry in page.elements:
                    yield entry

    async def history_pages(
        self, distribution_id: str, *, cursor: str | None = None
    ) -> AsyncGenerator[ReadPage[HistoryEntry], None]:
        """Iterate over the pages of what became of a distribution's links, 100 on each.

        A distribution without recipients has been answered with a refusal (observed); here it has
        no history.

        Args:
            distribution_id: `EMD_…`.
            cursor: That of an earlier page, as in `list_contact_pages`.
        """
        path = f"{_distribution(distribution_id)}/history"
        try:
            async for page in self._pages("history", "history", path, _HISTORY, cursor=cursor):
                yield page
        except Refused as error:
            if error.error_code != _NO_RECIPIENTS:
                raise

    # --- surveys --------------------------------------------------------------------------------

    def surveys(self) -> AsyncIterator[Survey]:
        """Iterate over the surveys that the token's owner sees."""
        return self._elements("surveys", "surveys", "/surveys", _SURVEYS)

    async def survey_definition(self, survey_id: str) -> SurveyDefinition:
        """Read whether a survey is active, which fields it declares, and where its pages are."""
        path = f"/survey-definitions/{path_id('SV', survey_id)}"
        request = Request("survey_definition", "surveys", "GET", path)
        return (await self._caller.read(request, _DEFINITION)).result

    async def response(self, survey_id: str, response_id: str) -> SurveyResponse:
        """Read one response with its embedded data."""
        path = f"/surveys/{path_id('SV', survey_id)}/responses/{path_id('R', response_id)}"
        request = Request("response", "responses", "GET", path)
        return (await self._caller.read(request, _RESPONSE)).result

    # --- events ---------------------------------------------------------------------------------

    async def create_subscription(self, topics: str, publication_url: str, shared_key: str) -> str:
        """Ask for calls about events, and return the subscription's id, `SUB_…`.

        It takes a brand administrator's token (documented).

        Args:
            topics: Such as `surveyengine.completedResponse.SV_…`.
            publication_url: Where the calls are to go.
            shared_key: What they are to be signed with.
        """
        body = SubscriptionBody(
            topics=topics, publication_url=publication_url, encrypt=False, shared_key=shared_key
        )
        request = Request(
            "create_subscription", "subscriptions", "POST", _SUBSCRIPTION_PATH, _encode(body)
        )
        return (await self._caller.write(request, _SUBSCRIBED)).result.id

    def subscriptions(self) -> AsyncIterator[Subscription]:
        """Iterate over the brand's subscriptions, everybody's among them."""
        return self._elements("subscriptions", "subscriptions", _SUBSCRIPTION_PATH, _SUBSCRIPTIONS)

    async def delete_subscription(self, subscription_id: str) -> None:
        """End a subscription."""
        path = f"{_SUBSCRIPTION_PATH}/{path_id('SUB', subscription_id)}"
        request = Request("delete_subscription", "subscriptions", "DELETE", path)
        await self._caller.write(request, _DONE)

    async def _elements(
        self,
        verb: str,
        call_class: CallClass,
        path: str,
        decoder: msgspec.json.Decoder[Envelope[Page[T]]],
        *,
        body: bytes | None = None,
    ) -> AsyncIterator[T]:
        """Read a list to its end, element by element."""
        async for page in self._pages(verb, call_class, path, decoder, body=body):
            for element in page.elements:
                yield element

    async def _pages(
        self,
        verb: str,
        call_class: CallClass,
        path: str,
        decoder: msgspec.json.Decoder[Envelope[Page[T]]],
        *,
        body: bytes | None = None,
        cursor: str | None = None,
    ) -> AsyncIterator[ReadPage[T]]:
        """Read a list to its end by cursor; where the next page's URL leads is never looked at.

        A wrong data centre answers with URLs of another host (observed).
        """
        method = "GET" if body is None else "POST"
        joint = "&" if "?" in path else "?"
        seen = {cursor}
        while True:
            where = f"{path}{joint}{cursor}" if cursor else path
            request = Request(verb, call_class, method, where, body)
            page = (await self._caller.read(request, decoder)).result
            if page.next_page is None and page.skip_token is None:
                yield ReadPage(page.elements, None)
                return
            cursor = _cursor(verb, page.next_page, page.skip_token)
            if cursor in seen or len(seen) > MOST_PAGES:
                raise Unreadable(verb, "the pages of a list do not end", "paging")
            seen.add(cursor)
            yield ReadPage(page.elements, cursor)


def _cursor(verb: str, next_page: str | None, skip_token: str | None) -> str:
    """The one parameter that leads on: `skipToken`, or for surveys `offset` (both observed)."""
    try:
        asked = (
            {"skipToken": [skip_token or ""]}
            if next_page is None
            else parse_qs(urlsplit(next_page).query, max_num_fields=MOST_PARAMETERS)
        )
        tokens = [(name, token) for name in _CURSORS for token in asked.get(name, [])]
    except ValueError:
        tokens = []
    if len(tokens) != 1 or len(tokens[0][1]) > LONGEST_CURSOR:
        raise Unreadable(verb, "a page names a next one without one cursor", "paging")
    name, token = tokens[0]
    return f"{name}={quote(token, safe='')}"


def _without_private(contact: ContactFields) -> ContactFields:
    if contact.private_embedded_data is not None:
        raise ValueError("private data belong to a contact's place in a list")
    return contact


def _transaction_ids(transaction_ids: Sequence[str]) -> bytes:
    return _encode(TransactionIdsBody([path_id("CTR", each) for each in transaction_ids]))


def _directory(directory_id: str) -> str:
    return f"/directories/{path_id('POOL', directory_id)}"


def _contact(directory_id: str, contact_id: str) -> str:
    return f"{_directory(directory_id)}/contacts/{path_id('CID', contact_id)}"


def _list(directory_id: str, list_id: str) -> str:
    return f"{_directory(directory_id)}/mailinglists/{path_id('CG', list_id)}"


def _list_contact(directory_id: str, list_id: str, contact_id: str) -> str:
    return f"{_list(directory_id, list_id)}/contacts/{path_id('CID', contact_id)}"


def _transaction(directory_id: str, transaction_id: str) -> str:
    return f"{_directory(directory_id)}/transactions/{path_id('CTR', transaction_id)}"


def _batch(directory_id: str, batch_id: str) -> str:
    return f"{_directory(directory_id)}/transactionbatches/{path_id('BT', batch_id)}"


def _distribution(distribution_id: str) -> str:
    return f"/distributions/{path_id('EMD', distribution_id)}"
