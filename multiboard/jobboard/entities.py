# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The conductors that a board shows: TaskFlow's entities as postings, and back."""

from __future__ import annotations

import uuid
from collections.abc import Mapping

from taskflow import exceptions as excp
from taskflow.conductors import base as conductors
from taskflow.types import entity as entities

from multiboard.primitives import NewPosting, Posting, arguments
from multiboard.runtime import codec


def posting_of(entity: entities.Entity) -> NewPosting:
    """Return the posting that shows an entity; its key is the same for the same name.

    Raises: ``taskflow.exceptions.NotImplementedError`` for what is no conductor;
    ``InvalidArgument``.
    """
    arguments.check_instance("entity", entity, entities.Entity, "a TaskFlow Entity")
    if entity.kind != conductors.Conductor.ENTITY_KIND:
        kind = arguments.shown(entity.kind)
        raise excp.NotImplementedError(f"no entities of the kind {kind}, only conductors")
    arguments.check_instance("the entity's name", entity.name, str, "a string")
    arguments.check_instance("the entity's metadata", entity.metadata, Mapping, "a dict")
    body = codec.encode_plain(entity.to_dict())
    key = uuid.uuid5(uuid.NAMESPACE_OID, f"{entity.kind}/{entity.name}")
    return NewPosting(str(key), body)


def entity_of(posting: Posting) -> entities.Entity:
    """Return the entity that a posting shows.

    Raises: ``Undecodable``.
    """
    fields = codec.decode_plain(posting.body)
    kind, name, metadata = (fields.get(what) for what in ("kind", "name", "metadata"))
    if not (isinstance(kind, str) and isinstance(name, str) and isinstance(metadata, dict)):
        raise codec.Undecodable("its parts do not have the types that they should have")
    return entities.Entity(kind, name, metadata)
