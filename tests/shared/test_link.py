"""The environment of Flower's processes, and the codes of a refusal."""

from __future__ import annotations

import sys
from pathlib import Path

from flwr.supercore.error import ApiErrorCode, FlowerError

from shared.link import CLOCK, NOT_ENROLLED, SUSPENDED, flower_environment

HOME = Path("/somewhere/flower")


def test_telemetry_update_checks_and_the_hub_are_off_whatever_was_inherited() -> None:
    loud = {"FLWR_TELEMETRY_ENABLED": "1", "FLWR_DISABLE_UPDATE_CHECK": "0", "RAY_USAGE_STATS_ENABLED": "1"}
    made = flower_environment(loud, HOME)
    assert (made["FLWR_TELEMETRY_ENABLED"], made["FLWR_DISABLE_UPDATE_CHECK"]) == ("0", "1")
    assert made["RAY_USAGE_STATS_ENABLED"] == "0"
    assert "flower.ai" not in " ".join(made.values())


def test_no_flower_variable_is_inherited() -> None:
    risky = {
        "FLWR_INTERNAL_GRPC_CONTROL_API": "1",
        "FLWR_OIDC_ENABLED": "1",
        "FLWR_DATABASE": "x",
        "FLWR_HOME": "/srv/somebody",
    }
    made = flower_environment(risky, HOME)
    assert not {"FLWR_INTERNAL_GRPC_CONTROL_API", "FLWR_OIDC_ENABLED", "FLWR_DATABASE"} & made.keys()
    assert made["FLWR_HOME"] == str(HOME)


def test_what_the_machines_owner_set_stays() -> None:
    made = flower_environment({"HTTPS_PROXY": "http://proxy:3128", "LANG": "de_DE.UTF-8"}, HOME)
    assert (made["HTTPS_PROXY"], made["LANG"]) == ("http://proxy:3128", "de_DE.UTF-8")


def test_this_machine_is_never_asked_through_a_proxy() -> None:
    assert flower_environment({}, HOME)["NO_PROXY"] == "127.0.0.1,localhost"
    assert flower_environment({"no_proxy": "a.example, b.example"}, HOME)["NO_PROXY"].startswith("a.example,b.example,")


def test_doing_it_twice_changes_nothing_so_that_a_process_restarts_once() -> None:
    once = flower_environment({"PATH": "/bin", "NO_PROXY": "a"}, HOME)
    twice = flower_environment(once, HOME)
    assert {**twice, "PATH": ""} == {**once, "PATH": ""}


def test_flowers_commands_are_found_beside_this_interpreter() -> None:
    assert flower_environment({}, HOME)["PATH"].startswith(f"{Path(sys.executable).parent}:")


def test_our_codes_are_none_of_flowers_and_flower_reads_them() -> None:
    assert not {NOT_ENROLLED, SUSPENDED, CLOCK} & {int(code) for code in ApiErrorCode}
    read = FlowerError.from_json(f'{{"code":{SUSPENDED},"detail":"ask the lead"}}')
    assert read is not None
    assert (read.code, read.message) == (SUSPENDED, "ask the lead")
