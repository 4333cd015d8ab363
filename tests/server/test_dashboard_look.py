"""What the lead's page says of a federation: read off real folders that the real writers have written."""

import shutil
from collections import Counter
from datetime import timedelta
from pathlib import Path

import dp_accounting
import pytest
from dp_accounting.pld import PLDAccountant
from prometheus_client.parser import text_string_to_metric_families
from small_trust import DAY
from watched import ROOMY, SITES, SUSPENDED, Watched, damage, disk_of, private_plan, watched

from server.dashboard import sentences
from server.dashboard.failures import REASONS, reason_of
from server.dashboard.look import Look, look, report_file
from server.dashboard.numbers import PHASE_WORDS, gauges, state_of
from server.dashboard.page import NAMES, content, facts, renderer
from server.dashboard.spending import spent
from server.round_values import PASSING, Phase
from shared.local_page.telemetry import exposition
from shared.privacy.terms import terms_for


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    disk_of(monkeypatch, ROOMY)
    return watched(tmp_path)


def now(seen: Watched) -> Look:
    return look(seen.folder, seen.nodes, seen.clock())


def numbers(seen: Watched) -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families(exposition(gauges(now(seen))).decode())
    return {
        (one.name.removeprefix("consilium_"), *one.labels.values()): one.value
        for each in families
        for one in each.samples
    }


def sections(seen: Watched) -> dict[str, str]:
    made, _ = renderer()
    return dict(made(now(seen)))


# --- sites -----------------------------------------------------------------------------------------------------------


def test_each_site_of_the_roster_is_said_to_be_connected_away_suspended_or_never_seen(seen: Watched) -> None:
    seen.online, seen.away = {"aachen"}, {"chur"}
    found = {one.name: sentences.health(one, None) for one in now(seen).sites}
    words = {name: one.word for name, one in found.items()}
    assert words == {"aachen": "connected", "basel": "never connected", "chur": "away", "delft": "suspended"}
    assert "12 minutes ago" in found["chur"].sentence
    assert all(one.hint for one in found.values() if one.level in {"warn", "bad"})


def test_a_node_counts_by_its_key_and_not_by_its_name(seen: Watched) -> None:
    """Control: with its own key the same node is connected."""
    assert {one.name: one.link for one in now(seen).sites}["aachen"] == "connected"
    impostor = seen.members["basel"]
    seen.members = {**seen.members, "aachen": impostor}
    seen.online = {"aachen"}
    assert {one.name: one.link for one in now(seen).sites}["aachen"] == "never"


def test_without_a_gateway_nobody_knows_who_is_connected(seen: Watched) -> None:
    seen.gateway = False
    assert {one.link for one in now(seen).sites} == {"unknown"}
    assert "consilium-server start" in sections(seen)["now"]
    assert "sites_connected" not in {name for name, *_ in numbers(seen)}
    assert state_of(now(seen)) == "no-gateway"


def test_a_roster_that_was_changed_is_said_and_the_page_stands(seen: Watched) -> None:
    path = seen.folder.path / "roster.json"
    path.write_bytes(path.read_bytes().replace(b"aachen", b"aacben"))
    found = now(seen)
    assert (found.sites, len(found.faults)) == ((), 1)
    assert state_of(found) == "damaged"
    assert "notices" in sections(seen)["now"]


# --- runs ------------------------------------------------------------------------------------------------------------


def test_without_a_run_the_page_says_how_to_begin_one(seen: Watched) -> None:
    assert "consilium-server run PLAN" in sentences.lead(now(seen))
    assert set(sections(seen)) == set(NAMES)


def test_a_run_that_goes_on_says_round_phase_and_who_is_awaited(seen: Watched) -> None:
    board = seen.trained(seen.begin(), 6)
    board.say(failed={"chur": "no-answer"}, asked=("aachen",))
    assert sentences.lead(now(seen)) == (
        "retina-vessels: round 7 of 40, training at the sites. "
        "1 of 3 sites has answered; aachen is awaited; chur failed."
    )
    assert facts(now(seen))[0] == ("Round", "7 of 40", "training at the sites")


def test_a_run_that_failed_says_why_and_what_to_do(seen: Watched) -> None:
    board = seen.trained(seen.begin(), 2)
    board.say(state="failed", sentence="2 of 3 sites are below the quorum of 3", hint="ask the sites")
    found = sections(seen)["now"]
    assert "below the quorum of 3" in found
    assert "Ask the sites." in found


def test_a_run_that_was_killed_is_noticed_once_no_phase_may_last_that_long(seen: Watched) -> None:
    run = seen.begin()
    seen.trained(run, 2)
    seen.now += timedelta(seconds=3600 + 599)
    assert state_of(now(seen)) == "ok"
    seen.now += timedelta(seconds=2)
    assert state_of(now(seen)) == "run-silent"
    assert f"consilium-server resume {run.run[:8]}" in sections(seen)["now"]


def test_a_finished_run_is_not_called_silent_however_old(seen: Watched) -> None:
    board = seen.trained(seen.begin(), 40)
    board.say(state="finished", phase="finished", round=40)
    seen.now += 100 * DAY
    assert "finished its 40 rounds" in sentences.lead(now(seen))
    assert state_of(now(seen)) == "ok"


def test_the_run_that_goes_on_is_shown_although_another_was_ordered_after_it(seen: Watched) -> None:
    run = seen.begin()
    seen.trained(run, 3)
    seen.begin()
    shown = now(seen).run
    assert shown is not None
    assert shown.run == run.run
    assert len(now(seen).runs) == 2


def test_a_plan_that_was_changed_on_the_disk_is_said_and_hides_no_other_run(seen: Watched) -> None:
    first, second = seen.begin(), seen.begin()
    seen.trained(first, 3)
    damage(second)
    outcomes = {one.run: sentences.outcome(one).word for one in now(seen).runs}
    assert outcomes == {first.run: "running", second.run: "damaged"}
    assert "cannot be trusted" in sections(seen)["runs"]


def test_every_phase_that_a_run_can_be_in_has_words(seen: Watched) -> None:
    board = seen.trained(seen.begin(), 1)
    assert {phase.value for phase in Phase} <= set(sentences.PHASES)
    for phase in Phase:
        board.say(phase=phase.value)
        assert numbers(seen)["run_phase", phase.value] == 1
    assert sum(value for (name, *_), value in numbers(seen).items() if name == "run_phase") == 1
    assert len(PHASE_WORDS) == len(set(PHASE_WORDS))


# --- curves ----------------------------------------------------------------------------------------------------------


def test_curves_show_every_loss_and_the_headline_where_it_was_measured(seen: Watched) -> None:
    seen.trained(seen.begin(), 11)
    loss, dice = content(now(seen))["curves"]
    assert [at for at, _ in loss.known] == list(range(1, 12))
    assert [at for at, _ in dice.known] == [1, 5, 10]
    assert loss.known[-1][1] == pytest.approx(0.21 + 0.9 * 0.84**11)
    assert sections(seen)["progress"].count('role="img"') == 2


# --- privacy ---------------------------------------------------------------------------------------------------------


def test_what_was_paid_is_what_an_independent_accountant_says_of_the_rounds_begun(seen: Watched) -> None:
    run = seen.begin(private_plan())
    seen.trained(run, 17)
    terms = terms_for(run.plan, "aachen")
    accountant = PLDAccountant()
    step = dp_accounting.PoissonSampledDpEvent(
        terms.sampling_rate, dp_accounting.GaussianDpEvent(terms.noise_multiplier)
    )
    accountant.compose(step, 18 * terms.steps_per_round)
    shown = now(seen).run
    assert shown is not None
    found = {one.site: one for one in spent(shown)}
    assert set(found) == set(SITES) - {SUSPENDED}
    assert found["aachen"].paid == pytest.approx(accountant.get_epsilon(1e-4), rel=0.02)
    assert found["aachen"].paid < found["aachen"].epsilon == 8.0


def test_all_rounds_together_never_cost_more_than_the_plan_promises(seen: Watched) -> None:
    board = seen.trained(seen.begin(private_plan()), 40)
    board.say(round=40)
    shown = now(seen).run
    assert shown is not None
    assert all(0.9 < one.share <= 1 for one in spent(shown))


def test_a_plan_without_protection_says_so_plainly(seen: Watched) -> None:
    seen.trained(seen.begin(), 2)
    assert "no protection" in sections(seen)["privacy"]
    assert "<rect" not in sections(seen)["privacy"]
    seen.trained(seen.begin(private_plan()), 2)


def test_a_private_plan_shows_a_bar_for_each_site_that_was_asked(seen: Watched) -> None:
    seen.trained(seen.begin(private_plan()), 2)
    assert sections(seen)["privacy"].count('class="bar"') == 3
    assert "no protection" not in sections(seen)["privacy"]


# --- failures --------------------------------------------------------------------------------------------------------


def test_failures_are_counted_by_site_and_code_and_the_present_ones_stand_first(seen: Watched) -> None:
    missing = {3: {"chur": "no-answer"}, 4: {"chur": "no-answer"}, 5: {"basel": "custodian-gone"}}
    board = seen.trained(seen.begin(), 6, missing)
    board.say(failed={"chur": "no-answer"}, asked=("aachen",))
    found = [(one.site, one.code, one.times, one.last, one.now) for one in sentences.failures(now(seen).run)]
    assert found == [("chur", "no-answer", 3, 7, True), ("basel", "custodian-gone", 1, 5, False)]
    counted: Counter[str] = Counter(code for one in missing.values() for code in one.values())
    assert numbers(seen)["run_failures", "no-answer"] == counted["no-answer"] + 1
    assert numbers(seen)["run_failures", "custodian-gone"] == counted["custodian-gone"]


def test_a_site_that_is_connected_and_failed_says_why(seen: Watched) -> None:
    board = seen.trained(seen.begin(), 6)
    board.say(failed={"aachen": "custodian-unreachable"}, asked=(), answered=())
    found = {one.name: sentences.health(one, now(seen).run) for one in now(seen).sites}["aachen"]
    assert (found.level, found.word) == ("warn", "connected")
    assert "custodian does not run" in found.sentence


def test_every_code_of_a_site_that_may_yet_join_has_words_and_no_hint_is_empty() -> None:
    assert set(REASONS) >= PASSING
    assert all(one.hint and one.sentence[-1] != "." for one in REASONS.values())


def test_a_code_that_nobody_foresaw_is_said_as_it_is() -> None:
    assert reason_of("moon-phase").sentence == "gave the reason “moon phase”"
    assert reason_of("moon-phase").hint


# --- upkeep ----------------------------------------------------------------------------------------------------------


def test_the_page_warns_thirty_days_before_a_certificate_ends_and_is_red_from_seven(seen: Watched) -> None:
    days = {one.name: one.days for one in now(seen).certificates}
    for left, level in ((31, "good"), (29, "warn"), (6, "bad"), (-1, "bad")):
        seen.now += timedelta(days={one.name: one.days for one in now(seen).certificates}["server certificate"] - left)
        found = {one.name: shown for one, shown, _ in content(now(seen))["certificates"]}
        assert found["server certificate"] == level
        assert any("consilium-server renew" in one.hint for one in sentences.notices(now(seen))) == (level != "good")
    assert state_of(now(seen)) == "certificate"
    assert days["authority"] > days["server certificate"]


def test_metrics_say_what_the_page_says(seen: Watched) -> None:
    seen.trained(seen.begin(private_plan()), 5)
    seen.now += timedelta(seconds=90)
    found = numbers(seen)
    assert found["gateway_up",] == 1
    assert (found["sites_active",], found["sites_connected",]) == (3, 2)
    assert (found["site_connected", "aachen"], found["site_connected", "chur"]) == (1, 0)
    assert (found["run_round",], found["run_rounds",], found["run_active",]) == (6, 40, 1)
    assert found["run_silent_seconds",] == 90
    assert 0 < found["epsilon_spent_ratio", "basel"] < 1
    assert found["disk_free_bytes",] == ROOMY


def test_the_disk_is_that_of_the_federation_s_folder(seen: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []
    real = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: asked.append(path) or real(path))
    now(seen)
    assert asked == [seen.folder.path]


def test_the_page_says_nothing_about_a_suspended_site_in_its_metrics(seen: Watched) -> None:
    assert not any(SUSPENDED in labels for labels in numbers(seen))


# --- reports ---------------------------------------------------------------------------------------------------------


def test_only_the_plain_report_of_a_run_that_was_ordered_is_served(seen: Watched) -> None:
    run = seen.begin()
    assert report_file(seen.folder, run.run) is None
    (run.path / "report.html").write_text("<h1>r</h1>")
    assert report_file(seen.folder, run.run) == run.path / "report.html"
    (run.path / "report.html").unlink()
    (run.path / "report.html").symlink_to(seen.folder.path / "trust" / "lead.key")
    assert report_file(seen.folder, run.run) is None
