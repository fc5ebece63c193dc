"""The platform's directory: which one is ours, and by what it recognises a contact."""

from __future__ import annotations

from milepost.errors import ConfigurationError
from milepost.model import Deployment
from milepost.store import Store
from milepost.upstream import Upstream


async def bind(store: Store, upstream: Upstream, wanted: str | None) -> Deployment:
    """Learn the directory's dedup criteria; where they changed, compute all contact keys anew.

    Args:
        store: remembers the directory.
        upstream: is asked for it.
        wanted: the directory's id; None: the account's default one.

    Raises:
        ConfigurationError: there is no such directory, or the deployment has another.
    """
    directories = await upstream.directories()
    found = next(
        (d for d in directories if (d.is_default if wanted is None else d.directory_id == wanted)),
        None,
    )
    if found is None:
        known = ", ".join(directory.directory_id for directory in directories) or "none"
        raise ConfigurationError(
            f"MILEPOST_DIRECTORY_ID: the account has no directory {wanted or 'by default'} "
            f"(it has: {known})"
        )
    deployment = await store.deployment.load()
    if deployment.directory_id not in {None, found.directory_id}:
        raise ConfigurationError(
            f"MILEPOST_DIRECTORY_ID: this database belongs to directory {deployment.directory_id}, "
            f"not to {found.directory_id}: give each directory a database of its own"
        )
    if deployment.dedup_criteria != found.dedup_criteria:
        await store.registrants.rekey(found.directory_id, found.dedup_criteria)
        deployment = await store.deployment.load()
    return deployment


async def home_list(store: Store, upstream: Upstream) -> str | None:
    """The home list's id; it is made if there is none. None: somebody else makes it just now.

    Raises:
        CallFailed: as the client's verbs; whoever comes next looks for what was made all the same.
    """
    deployment = await store.deployment.load()
    if deployment.home_list_id is not None:
        return deployment.home_list_id
    directory_id = deployment.directory_id or ""
    attempt = await store.deployment.claim_home_list()
    if attempt is None:
        return None
    name = f"milepost {deployment.id} home"
    list_id = None
    if attempt > 1:
        lists = upstream.mailing_lists(directory_id)
        found = [known.list_id async for known in lists if known.name == name]
        list_id = found[0] if found else None
    list_id = list_id or await upstream.create_mailing_list(directory_id, name)
    is_noted = await store.deployment.note_home_list(list_id, attempt)
    return list_id if is_noted else None
