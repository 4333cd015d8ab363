"""The roster: each change touches one entry, versions only grow, and names and keys belong to one site each."""

import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from small_trust import HOUR, NOW, Lead, Member, code_of, node_pem

from shared.crypto.signing import SigningKey
from shared.errors import FederationError, ProtocolError
from shared.trust import roster as rosters
from shared.trust.documents import opened, seal
from shared.trust.roster import START, Entry, Roster, require_successor, with_site, with_state, without

NAMES = ("aachen", "bonn", "celle", "dortmund", "essen")
MEMBERS = {name: Member(name) for name in NAMES}
LEAD = Lead(tuple(MEMBERS[name] for name in ("celle", "aachen", "bonn")))


@pytest.fixture(scope="module")
def three() -> Roster:
    return LEAD.roster


def entries(roster: Roster) -> dict[str, str]:
    """Each entry as its bytes."""
    return {one.site: one.model_dump_json() for one in roster.sites}


# --- changes ---------------------------------------------------------------------------------------------------------


def test_the_first_roster_is_empty_and_follows_none() -> None:
    found = rosters.first("lungs", NOW)
    assert (found.version, found.sites, found.previous) == (1, (), "0" * 64)


def test_sites_stand_by_name_however_they_came(three: Roster) -> None:
    assert [one.site for one in three.sites] == ["aachen", "bonn", "celle"]
    assert three.version == 4


def test_adding_a_site_changes_no_other_entry(three: Roster) -> None:
    more = with_site(three, MEMBERS["dortmund"].entry, NOW)
    assert entries(three).items() < entries(more).items()
    assert set(entries(more)) - set(entries(three)) == {"dortmund"}


def test_suspending_a_site_changes_its_state_and_nothing_else(three: Roster) -> None:
    less = with_state(three, "bonn", "suspended", NOW)
    before, after = entries(three), entries(less)
    assert json.loads(after["bonn"]) == json.loads(before["bonn"]) | {"state": "suspended"}
    assert {name: before[name] for name in ("aachen", "celle")} == {name: after[name] for name in ("aachen", "celle")}


def test_removing_a_site_changes_no_other_entry(three: Roster) -> None:
    less = without(three, "bonn", NOW)
    assert entries(less) == {name: entry for name, entry in entries(three).items() if name != "bonn"}


def test_suspending_and_reinstating_gives_the_same_sites_two_versions_later(three: Roster) -> None:
    back = with_state(with_state(three, "bonn", "suspended", NOW), "bonn", "active", NOW)
    assert back.sites == three.sites
    assert back.version == three.version + 2


@pytest.mark.parametrize("state", ["active", "suspended"])
def test_a_state_that_holds_already_is_no_change(three: Roster, state: str) -> None:
    held = with_state(three, "bonn", "suspended", NOW) if state == "suspended" else three
    assert code_of(lambda: with_state(held, "bonn", state, NOW)) == "site-state"  # type: ignore[arg-type]


def test_a_site_that_is_not_there_cannot_be_changed(three: Roster) -> None:
    assert code_of(lambda: without(three, "dortmund", NOW)) == "site-unknown"
    assert code_of(lambda: with_state(three, "dortmund", "suspended", NOW)) == "site-unknown"


def test_an_entry_is_found_by_name_and_its_key_verifies_its_signatures(three: Roster) -> None:
    found = three.entry("celle")
    assert found is not None
    message = b"consilium-cohort-1\nx"
    found.verify_key.verify(MEMBERS["celle"].key.sign(message), message)
    assert three.entry("dortmund") is None


changes = st.lists(
    st.tuples(st.sampled_from(NAMES), st.sampled_from(["add", "suspend", "lift", "remove"])), max_size=20
)


@settings(max_examples=30)
@given(changes)
def test_whatever_is_done_each_change_is_one_version_one_entry_and_follows_from_the_one_before(
    steps: list[tuple[str, str]],
) -> None:
    """The oracle is a dictionary of names and states."""
    held, expected = rosters.first("lungs", NOW), dict[str, str]()
    for name, what in steps:
        try:
            made = changed(held, name, what)
        except FederationError:
            continue
        require_successor(held, made)
        assert made.version == held.version + 1
        assert made.previous == hashlib.sha256(held.canonical()).hexdigest()
        differing = {site for site in NAMES if entries(held).get(site) != entries(made).get(site)}
        assert differing == {name}
        expected = outcome(expected, name, what)
        held = made
    assert {one.site: one.state for one in held.sites} == expected


def changed(held: Roster, name: str, what: str) -> Roster:
    if what == "add":
        return with_site(held, MEMBERS[name].entry, NOW)
    if what == "remove":
        return without(held, name, NOW)
    return with_state(held, name, "suspended" if what == "suspend" else "active", NOW)


def outcome(held: dict[str, str], name: str, what: str) -> dict[str, str]:
    if what == "remove":
        return {site: state for site, state in held.items() if site != name}
    return held | {name: "suspended" if what == "suspend" else "active"}


# --- names and keys --------------------------------------------------------------------------------------------------


def test_a_name_with_another_key_is_refused_and_both_fingerprints_are_named(three: Roster) -> None:
    thief = Member("bonn", SigningKey.generate())
    with pytest.raises(FederationError) as caught:
        with_site(three, thief.entry.model_copy(update={"node": node_pem("thief")}), NOW)
    assert caught.value.code == "site-name-taken"
    assert thief.key.verify_key.fingerprint() in caught.value.sentence
    assert MEMBERS["bonn"].key.verify_key.fingerprint() in caught.value.sentence
    assert "telephone" in caught.value.hint


def test_a_key_under_another_name_is_refused(three: Roster) -> None:
    double = MEMBERS["bonn"].entry.model_copy(update={"site": "essen", "node": node_pem("essen")})
    assert code_of(lambda: with_site(three, double, NOW)) == "site-key-taken"


def test_a_node_key_of_another_site_is_refused(three: Roster) -> None:
    stolen = Member("essen").entry.model_copy(update={"node": node_pem("bonn")})
    assert code_of(lambda: with_site(three, stolen, NOW)) == "site-key-taken"


def test_a_new_node_key_under_the_same_identity_needs_the_old_entry_gone(three: Roster) -> None:
    renewed = MEMBERS["bonn"].entry.model_copy(update={"node": node_pem("bonn, renewed")})
    assert code_of(lambda: with_site(three, renewed, NOW)) == "site-enrolled"
    again = with_site(without(three, "bonn", NOW), renewed, NOW)
    assert again.entry("bonn") == renewed


def test_a_removed_site_leaves_its_name_to_another_key(three: Roster) -> None:
    heir = Member("bonn", SigningKey.generate()).entry
    assert with_site(without(three, "bonn", NOW), heir, NOW).entry("bonn") == heir


def test_a_roster_with_shared_names_or_keys_or_out_of_order_cannot_be_built(three: Roster) -> None:
    first, second, third = three.sites
    for sites in (
        (first, first, third),
        (second, first, third),
        (first, second.model_copy(update={"identity": first.identity})),
        (first, second.model_copy(update={"node": first.node})),
    ):
        with pytest.raises(ValidationError, match="share neither name nor key"):
            Roster(**(three.model_dump() | {"sites": sites}))


def test_a_roster_without_a_predecessor_is_the_first_and_only_the_first(three: Roster) -> None:
    for wrong in ({"previous": START}, {"version": 1}):
        with pytest.raises(ValidationError, match="follows none"):
            Roster(**(three.model_dump() | {"sites": three.sites} | wrong))


@pytest.mark.parametrize("version", [0, -1, 1.0, "2", True])
def test_a_version_is_a_whole_number_from_1(three: Roster, version: object) -> None:
    with pytest.raises(ValidationError):
        Roster(**(three.model_dump() | {"sites": three.sites, "version": version}))


@pytest.mark.parametrize("node", ["", "x", "-----BEGIN PUBLIC KEY-----\n", "A" * 401])
def test_an_entry_needs_a_node_key_that_is_one(node: str) -> None:
    with pytest.raises(ValidationError):
        Entry(site="aachen", identity="0" * 64, node=node)


# --- older and newer -------------------------------------------------------------------------------------------------


def test_the_same_roster_and_the_next_one_and_later_ones_may_be_taken(three: Roster) -> None:
    following = without(three, "bonn", NOW)
    later = without(following, "aachen", NOW)
    for offered in (three, following, later):
        require_successor(three, offered)


def test_an_older_roster_is_refused_and_both_versions_are_named(three: Roster) -> None:
    older = Lead(LEAD.members[:2], key=LEAD.key).roster
    with pytest.raises(ProtocolError, match="version 3, the one held here 4") as caught:
        require_successor(three, older)
    assert caught.value.code == "roster-older"


def test_a_replayed_roster_from_before_a_suspension_is_refused(three: Roster) -> None:
    suspended = with_state(three, "bonn", "suspended", NOW)
    assert code_of(lambda: require_successor(suspended, three)) == "roster-older"


def test_two_rosters_of_one_version_are_a_fork(three: Roster) -> None:
    one, other = without(three, "bonn", NOW), without(three, "aachen", NOW)
    assert code_of(lambda: require_successor(one, other)) == "roster-fork"


def test_the_next_version_of_another_history_is_a_fork(three: Roster) -> None:
    one, other = without(three, "bonn", NOW), without(three, "aachen", NOW)
    assert code_of(lambda: require_successor(one, without(other, "bonn", NOW))) == "roster-fork"


def test_the_roster_of_another_federation_is_refused(three: Roster) -> None:
    other = Lead(LEAD.members, "livers").roster
    assert code_of(lambda: require_successor(three, other)) == "roster-federation"


def test_a_signed_roster_opens_as_it_was_and_only_with_its_leads_key(three: Roster) -> None:
    content = seal(three, LEAD.key)
    assert opened(content, Roster, LEAD.key.verify_key) == three
    assert code_of(lambda: opened(content, Roster, SigningKey.generate().verify_key)) == "signer"


@given(st.integers(0, 10**6), st.integers(1, 255))
def test_a_signed_roster_with_any_byte_changed_is_refused(place: int, change: int) -> None:
    content = bytearray(seal(ROSTER, LEAD.key))
    content[place % len(content)] ^= change
    with pytest.raises(ProtocolError):
        opened(bytes(content), Roster, LEAD.key.verify_key)


def test_times_of_change_do_not_decide_which_roster_is_newer(three: Roster) -> None:
    """A lead's clock that was put back must not lock its sites out."""
    require_successor(three, without(three, "bonn", NOW - 1000 * HOUR))


ROSTER = LEAD.roster
