"""The account's world, in memory: all that it holds, and the rules of contacts and lists.

Nothing here waits, knows HTTP, reads a clock or rolls dice. A *verb* is a function that takes the
world and an `Act`: the moment it happens, the ids it is about, its body, and a mint for the ids
that it makes. It either refuses and has changed nothing, or does all of it. Given the same act it
always does the same, which is why the log of acts is the state: after a restart they are done
again, in order.

What belongs to what:

    Contact ── Membership ──── MailingList ──┐
       │       `CGC_`                        ├── Distribution ── Session
       └────── Transaction ─── Batch ────────┘
               `CTR_`

A distribution stands on a list or on a batch; whoever is in there is its recipient, and has one
live session. A contact has one lookup id (`CGC_`) in each list, and any number of transactions.

Here are the contacts and their lists; `transactions`, `distributions` and `visits` hold the verbs
on the rest. Embedded data belong to the contact, private embedded data to the membership, data of a
transaction to it. A session takes a copy of them when it starts; later changes do not reach it.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from milepost.simulator import shapes
from milepost.simulator.facts import Facts
from milepost.simulator.things import (
    Act,
    Batch,
    Contact,
    Distribution,
    Import,
    Index,
    MailingList,
    Membership,
    Outcome,
    Session,
    Shelf,
    Subscription,
    Survey,
    Transaction,
    take_out,
)
from milepost.simulator.wire import Refusal

LISTED_LISTS = 10_000
"""Beyond so many mailing lists a directory stops listing them (documented)."""

_MERGED = ("contact", "into")
"""The ids of an act that makes one contact out of two."""


class World:
    """Everything that one account holds, and the verbs that change it."""

    def __init__(self) -> None:
        self.directory_id = ""
        self.owner_id = ""
        self.criteria: dict[str, bool] = dict.fromkeys(shapes.DEDUPLICATION_FIELDS, False)
        self.undeclared_fields: Literal["recorded", "dropped"] = "recorded"
        self.facts = Facts()
        self.clock_offset_ms = 0
        self.surveys: dict[str, Survey] = {}
        self.contacts: Shelf[Contact] = Shelf()
        self.lists: Shelf[MailingList] = Shelf()
        self.distributions: Shelf[Distribution] = Shelf()
        self.batches: Shelf[Batch] = Shelf()
        self.memberships: dict[str, Membership] = {}
        self.transactions: dict[str, Transaction] = {}
        self.sessions: dict[str, Session] = {}
        self.responses: dict[str, Session] = {}
        self.imports: dict[str, Import] = {}
        self.subscriptions: Shelf[Subscription] = Shelf()
        self._ordinal = 0
        self._by_email = Index()
        self._by_ext_ref = Index()
        self._by_identity = Index()

    def next_ordinal(self) -> int:
        """The place of what is made next, in the order in which things are made."""
        self._ordinal += 1
        return self._ordinal

    # Looking up ---------------------------------------------------------------------------------

    def check_directory(self, directory_id: str) -> None:
        """Refuse any directory but ours."""
        if directory_id != self.directory_id:
            raise Refusal(404, "Directory not found")

    def mailing_list(self, ids: dict[str, str]) -> MailingList:
        """The mailing list of a path; 404 `PACC_6` if there is none (observed)."""
        self.check_directory(ids["directory"])
        found = self.lists.get(ids["mailing_list"])
        if found is None:
            raise Refusal(404, "Mailing List not found", "PACC_6")
        return found

    def list_contact(self, ids: dict[str, str]) -> tuple[Contact, Membership]:
        """The list contact of a path; 404 in the recorded words if there is none (observed)."""
        contact = self.contacts.get(ids["contact"])
        member = contact.membership_in(ids["mailing_list"]) if contact is not None else None
        if ids["directory"] != self.directory_id or contact is None or member is None:
            raise Refusal(
                404,
                f"The request to get the contact({ids['contact']}) from mailing-list("
                f"{ids['mailing_list']}) in directory({ids['directory']}) was unable to find the "
                "mailing list or directory.",
                "GET_CONTACT_FROM_LIST_NOT_FOUND",
            )
        return contact, member

    def contact(self, ids: dict[str, str]) -> Contact:
        """The directory contact of a path."""
        self.check_directory(ids["directory"])
        found = self.contacts.get(ids["contact"])
        if found is None:
            raise Refusal(404, "Contact not found")
        return found

    def survey(self, survey_id: str) -> Survey:
        """The survey of a path."""
        found = self.surveys.get(survey_id)
        if found is None:
            raise Refusal(404, "Survey not found")
        return found

    def distribution(self, ids: dict[str, str], survey_id: str | None = None) -> Distribution:
        """The distribution of a path; 404 `GED_3` if that survey has none such (observed)."""
        found = self.distributions.get(ids["distribution"])
        if found is None or survey_id not in (None, found.survey_id):
            raise Refusal(404, "Distribution not found.", "GED_3")
        return found

    def search(self, wanted: shapes.Condition | shapes.Conjunction, at: int) -> list[Contact]:
        """The contacts that match, case aside, in the order of making, as far as search knows them.

        Args:
            wanted: What to look for.
            at: Milliseconds since the epoch; search finds nobody who is younger than its lag.
        """
        conditions = [wanted] if isinstance(wanted, shapes.Condition) else wanted.filters
        every = isinstance(wanted, shapes.Condition) or wanted.conjunction == "and"
        found: dict[str, Contact] | None = None
        for condition in conditions:
            hits = self._matching(condition)
            if found is None:
                found = hits
            elif every:
                found = {contact_id: found[contact_id] for contact_id in found.keys() & hits}
            else:
                found |= hits
        known_since = at - round(self.facts.search_lag_seconds * 1000)
        known = (one for one in (found or {}).values() if one.created_at <= known_since)
        return sorted(known, key=lambda contact: contact.ordinal)

    def _matching(self, condition: shapes.Condition) -> dict[str, Contact]:
        value = condition.value.lower()
        if condition.filter_type in ("email", "extRef"):
            index = self._by_email if condition.filter_type == "email" else self._by_ext_ref
            hits = (self.contacts.get(contact_id) for contact_id in index.find(value))
            return {contact.id: contact for contact in hits if contact is not None}
        name = {"firstName": "first_name", "lastName": "last_name"}.get(
            condition.filter_type, condition.filter_type
        )
        return {one.id: one for one in self.contacts if _folded(getattr(one, name)) == value}

    # Contacts -----------------------------------------------------------------------------------

    def _identity(self, fields: Contact | shapes.ContactBody) -> str | None:
        """What deduplication compares: all criteria, case aside; `None` if one has no value."""
        values = []
        for criterion, name in shapes.DEDUPLICATION_FIELDS.items():
            if self.criteria[criterion]:
                value = getattr(fields, name)
                if value is UNSET or not value:
                    return None
                values.append(_fold(value))
        return "\x1f".join(values) if values else None

    def _index(self, contact: Contact) -> None:
        self._by_email.add(_folded(contact.email), contact.id)
        self._by_ext_ref.add(_folded(contact.ext_ref), contact.id)
        self._by_identity.add(self._identity(contact), contact.id)

    def _unindex(self, contact: Contact) -> None:
        self._by_email.discard(_folded(contact.email), contact.id)
        self._by_ext_ref.discard(_folded(contact.ext_ref), contact.id)
        self._by_identity.discard(self._identity(contact), contact.id)

    def _change(self, contact: Contact, body: shapes.ContactBody, at: int) -> None:
        """Take over what was sent and leave the rest. `unsubscribed: false` opts in (inferred)."""
        self._unindex(contact)
        for name in ("first_name", "last_name", "email", "phone", "ext_ref", "language"):
            value = getattr(body, name)
            if value is not UNSET:
                setattr(contact, name, value or None)
        if isinstance(body.unsubscribed, bool):
            contact.unsubscribed = body.unsubscribed
        if isinstance(body.embedded_data, dict):
            contact.embedded = {
                name: value
                for name, value in (contact.embedded or {}).items()
                if name not in body.embedded_data
            } | stored(body.embedded_data)
        contact.modified_at = at
        self._index(contact)

    def _check_email(self, body: shapes.ContactBody) -> None:
        """Refuse an address that is none, where the facts say so."""
        if not self.facts.any_email and isinstance(body.email, str) and "@" not in body.email:
            raise Refusal(400, "Invalid request body. Email address is not valid")

    def _take_in(self, act: Act) -> tuple[Contact, bool]:
        """The contact of a call that adds one: the match of the criteria, changed, or a new one."""
        self._check_email(act.body)
        identity = self._identity(act.body) if self.facts.merges else None
        matches = self._by_identity.find(identity) if identity is not None else ()
        contact = self.contacts.get(matches[0]) if matches else None
        made = contact is None
        if contact is None:
            contact = Contact(
                id=act.mint("CID"),
                ordinal=self.next_ordinal(),
                created_at=act.at,
                modified_at=act.at,
            )
            self.contacts.add(contact.id, contact)
        self._change(contact, act.body, act.at)
        return contact, made

    def add_contact(self, act: Act) -> Outcome:
        """Add a contact to the directory."""
        self.check_directory(act.ids["directory"])
        check_embedded(act.body.embedded_data)
        contact, made = self._take_in(act)
        return Outcome(
            {"id": contact.id}, {"contact": contact.id}, "created" if made else "modified"
        )

    def update_contact(self, act: Act) -> Outcome:
        """Change a directory contact."""
        contact = self.contact(act.ids)
        check_embedded(act.body.embedded_data)
        self._check_email(act.body)
        self._change(contact, act.body, act.at)
        return Outcome()

    def delete_contact(self, act: Act) -> Outcome:
        """Remove a contact with its memberships and transactions; its links break (inferred)."""
        contact = self.contact(act.ids)
        for member in contact.memberships:
            self._leave(contact, member)
        for transaction_id in contact.transactions:
            self.forget_transaction(transaction_id)
        self._unindex(contact)
        self.contacts.remove(contact.id)
        return Outcome()

    def merge_contacts(self, act: Act) -> Outcome:
        """Make two contacts one, as a person can; what the first has is the second's (inferred).

        The second comes into the lists that only the first was in, under lookup ids of its own. The
        links of the first break.
        """
        contact, into = (self.contact(act.ids | {"contact": act.ids[one]}) for one in _MERGED)
        if contact is into:
            raise Refusal(400, "A contact cannot be merged into itself")
        merged = shapes.ContactBody(
            **{
                name: getattr(contact, name)
                for name in shapes.DEDUPLICATION_FIELDS.values()
                if getattr(contact, name)
            },
            embedded_data=dict(contact.embedded) if contact.embedded else UNSET,
        )
        lists = [self.lists[member.list_id] for member in contact.memberships]
        self.delete_contact(act)
        self._change(into, merged, act.at)
        for mailing_list in lists:
            if into.membership_in(mailing_list.id) is None:
                self._join(into, mailing_list, act)
        return Outcome()

    def forget_transaction(self, transaction_id: str) -> None:
        """Take a transaction away, out of its batches too."""
        for batch_id in self.transactions.pop(transaction_id).batch_ids:
            self.batches[batch_id].entries.remove(transaction_id)

    # List contacts ------------------------------------------------------------------------------

    def add_list_contact(self, act: Act) -> Outcome:
        """Add a contact to a list, or take its data over if it is in it.

        With deduplication the directory's matching contact is modified, without it a duplicate is
        made (documented). The same contact and list again: the same lookup id, unless the facts say
        otherwise, and the private data replaced as a whole (inferred).
        """
        mailing_list = self.mailing_list(act.ids)
        check_embedded(act.body.embedded_data)
        check_embedded(act.body.private_embedded_data)
        contact, made = self._take_in(act)
        member = contact.membership_in(mailing_list.id)
        effect = "contact_created" if made else "list_contact_created"
        if member is not None:
            effect = "list_contact_modified"
            if not self.facts.same_lookup:
                self._leave(contact, member)
                member = None
        if member is None:
            member = self._join(contact, mailing_list, act)
        _set_private(member, act.body)
        return Outcome(
            {"id": contact.id, "contactLookupId": member.id},
            {"contact": contact.id, "lookup": member.id},
            effect,
        )

    def _join(self, contact: Contact, mailing_list: MailingList, act: Act) -> Membership:
        member = Membership(
            id=act.mint("CGC"),
            ordinal=self.next_ordinal(),
            contact_id=contact.id,
            list_id=mailing_list.id,
            added_at=act.at,
        )
        contact.memberships += (member,)
        mailing_list.members.append(member)
        self.memberships[member.id] = member
        return member

    def update_list_contact(self, act: Act) -> Outcome:
        """Change a list contact."""
        contact, member = self.list_contact(act.ids)
        check_embedded(act.body.embedded_data)
        check_embedded(act.body.private_embedded_data)
        self._check_email(act.body)
        self._change(contact, act.body, act.at)
        _set_private(member, act.body)
        return Outcome(ids={"lookup": member.id})

    def remove_list_contact(self, act: Act) -> Outcome:
        """Take a contact out of a list; it stays in the directory."""
        contact, member = self.list_contact(act.ids)
        self._leave(contact, member)
        return Outcome(ids={"lookup": member.id})

    def _leave(self, contact: Contact, member: Membership) -> None:
        contact.memberships = tuple(one for one in contact.memberships if one is not member)
        del self.memberships[member.id]
        mailing_list = self.lists.get(member.list_id)
        if mailing_list is not None:
            take_out(mailing_list.members, member)

    # Mailing lists ------------------------------------------------------------------------------

    def create_list(self, act: Act) -> Outcome:
        """Make a mailing list; names need not be unique (inferred)."""
        self.check_directory(act.ids["directory"])
        owner = act.body.owner_id
        made = MailingList(
            id=act.mint("CG"),
            ordinal=self.next_ordinal(),
            name=act.body.name,
            owner_id=self.owner_id if owner is UNSET else owner,
            created_at=act.at,
            modified_at=act.at,
        )
        self.lists.add(made.id, made)
        return Outcome({"id": made.id}, {"mailing_list": made.id})

    def update_list(self, act: Act) -> Outcome:
        """Rename a mailing list, or give it to somebody else."""
        mailing_list = self.mailing_list(act.ids)
        if act.body.name is not UNSET:
            mailing_list.name = act.body.name
        if act.body.owner_id is not UNSET:
            mailing_list.owner_id = act.body.owner_id
        mailing_list.modified_at = act.at
        return Outcome()

    def delete_list(self, act: Act) -> Outcome:
        """Delete a mailing list: its links break (observed), its contacts stay."""
        mailing_list = self.mailing_list(act.ids)
        self.lists.remove(mailing_list.id)
        for member in mailing_list.members:
            self._leave(self.contacts[member.contact_id], member)
        return Outcome()

    # The account itself -------------------------------------------------------------------------

    def found(self, act: Act) -> Outcome:
        """Make the account: one directory, one active survey, one user who owns everything."""
        self.directory_id = act.mint("POOL")
        self.owner_id = act.mint("UR")
        survey = Survey(
            id=act.mint("SV"),
            created_at=act.at,
            declared_fields=list(act.body.declared_fields),
            invitation_only=act.body.invitation_only,
        )
        self.surveys[survey.id] = survey
        self.criteria["email"] = act.body.dedup
        return Outcome()

    def _facts_but(self, changes: dict[str, object]) -> Facts:
        try:
            return self.facts.but(changes)
        except ValueError as error:
            raise Refusal(400, str(error)) from error

    def set_settings(self, act: Act) -> Outcome:
        """Set the switches that belong to the account; contacts are compared anew from then on."""
        body: shapes.WorldSettings = act.body
        facts = self._facts_but(body.facts) if isinstance(body.facts, dict) else self.facts
        if isinstance(body.deduplication_criteria, dict):
            unknown = body.deduplication_criteria.keys() - self.criteria.keys()
            if unknown:
                raise Refusal(400, f"Unknown deduplication criteria: {', '.join(sorted(unknown))}")
            self.criteria = dict.fromkeys(self.criteria, False) | body.deduplication_criteria
            self._by_identity = Index()
            for contact in self.contacts:
                self._by_identity.add(self._identity(contact), contact.id)
        for survey in self.surveys.values():
            if isinstance(body.survey_active, bool):
                survey.active = body.survey_active
            if isinstance(body.invitation_only, bool):
                survey.invitation_only = body.invitation_only
            if isinstance(body.declared_fields, list):
                survey.declared_fields = body.declared_fields
        if not isinstance(body.undeclared_fields, UnsetType):
            self.undeclared_fields = body.undeclared_fields
        self.facts = facts
        return Outcome()

    def set_clock(self, act: Act) -> Outcome:
        """Put the account's clock ahead of the real one, or behind it."""
        self.clock_offset_ms = act.body.offset_ms
        return Outcome()


def stored(embedded: shapes.Embedded) -> dict[str, str]:
    """Embedded data as kept: null and empty values are not (observed), numbers are their text."""
    return {
        name: text_of(value)
        for name, value in embedded.items()
        if value is not None and value != ""
    }


def text_of(value: str | float) -> str:
    """A value as the text that is kept; a number's is its JSON."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def check_embedded(embedded: shapes.Embedded | UnsetType | None) -> None:
    """Refuse a number whose text is too long to be a value; texts were measured on the way in."""
    if isinstance(embedded, dict):
        for name, value in embedded.items():
            if isinstance(value, int) and len(text_of(value)) > shapes.VALUE_LENGTH:
                raise Refusal(400, f"Invalid request body. Number too long in {name}")


def _set_private(member: Membership, body: shapes.ListContactBody) -> None:
    if isinstance(body.private_embedded_data, dict):
        member.private = stored(body.private_embedded_data) or None


def _folded(value: str | None) -> str | None:
    return None if value is None else _fold(value)


def _fold(value: str) -> str:
    # Where nothing had to be folded the same object is kept: an index holds no second copy.
    folded = value.lower()
    return value if folded == value else folded
