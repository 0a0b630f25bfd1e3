"""The rows of this paper; what holds for all rows is in test_registry.py."""

from kitlib.studies import registry


def test_no_claim_is_there_twice():
    claims = [(claim.item, claim.claim) for claim in registry.claims_of("upcycling")]
    assert len(claims) == len(set(claims)) > 50
