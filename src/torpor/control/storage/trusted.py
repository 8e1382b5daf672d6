"""The certificate authorities that an export carries: those that the machines of its snapshots
trust, with their keys, so that they get further certificates wherever they go on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torpor.core.errors import Invalid
from torpor.egress.authority import FACT, Authority
from torpor.snapshot.manifest import Manifest


def packed(known: Mapping[str, Authority], manifests: Iterable[Manifest]) -> list[dict[str, str]]:
    """Of those that are known, the ones that the manifests name, for the header of an export."""
    named = {manifest.facts.get(FACT) for manifest in manifests}
    return [
        {"certificate": each.certificate, "key": each.key.hex()}
        for fingerprint, each in known.items()
        if fingerprint in named
    ]


def unpacked(given: Any) -> list[Authority]:
    """What `packed` gave, from others (rule 13). Raises Invalid."""
    try:
        return [
            Authority.given(each["certificate"], bytes.fromhex(each["key"])) for each in given or ()
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Invalid(f"the authorities in the export are malformed: {error!r}") from error


def check_trusted(name: str, manifest: Manifest, carried: Iterable[Authority]) -> None:
    """Raises Invalid if what the machine of this manifest trusts is not carried."""
    trusted = manifest.facts.get(FACT)
    if trusted is not None and trusted not in {each.fingerprint for each in carried}:
        raise Invalid(f"the export lacks the authority that the machine of {name} trusts")
