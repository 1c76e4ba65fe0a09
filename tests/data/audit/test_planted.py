"""On the embedded data: nothing fails, and each planted fault is what the audit finds worst."""

import time

import pytest

from sigma.compute.workers import Workers
from sigma.data.audit.findings import audit_dataset, worst_first
from sigma.data.audit.limits import CHECKS, choose_limits
from sigma.data.audit.measures import WHOLE_DATASET
from sigma.data.dataset.dataset import open_dataset
from tests.data.audit.checks_page import PAGE, SETTINGS, page, worst_values
from tests.data.audit.embedded_copy import EMBEDDED, HERE, copy_embedded
from tests.data.audit.planted import FAULTS, FILE_FAULTS
from tests.data.audit.planted_films import FILM_FAULTS, plant_films

# The gripper opens across half of its range in a tenth of a second; a cube that is shown is held for a second, while
# the noise of the recording turns the wrist.
USUAL = {"jump", "frozen_action"}


def audit(folder, decode):
    return audit_dataset(open_dataset(folder), choose_limits({}), SETTINGS, workers=Workers(1), decode=decode)


def identity(finding):
    return finding.episode, finding.check, finding.severity, finding.subject


@pytest.fixture(scope="module")
def timed_clean():
    """The findings of the data as shipped, films included, and the processor seconds that they took."""
    begin = time.process_time()
    return audit(EMBEDDED, decode=True), time.process_time() - begin


@pytest.fixture(scope="module")
def clean(timed_clean):
    return timed_clean[0]


@pytest.fixture(scope="module")
def filmed(tmp_path_factory):
    return audit(plant_films(tmp_path_factory.mktemp("films")), decode=True)


def news(found, clean):
    """Findings that the data without the fault does not have, the worst first."""
    known = {identity(one) for one in clean}
    return worst_first(one for one in found if identity(one) not in known)


@pytest.mark.minutes
@pytest.mark.parametrize("check", CHECKS)
def test_clean_data_has_no_finding(clean, check):
    found = [one for one in clean if one.check == check]
    assert not [one for one in found if one.severity == "fail"]
    assert not found or check in USUAL


@pytest.mark.minutes
def test_the_warnings_of_the_clean_data_are_the_gripper_opening_and_the_cube_held(clean):
    assert {(one.check, one.subject) for one in clean} == {("jump", "gripper.pos"), ("frozen_action", "wrist_roll.pos")}
    assert len(clean) == 48 and max(one.value for one in clean) < 1.25


@pytest.mark.minutes
def test_the_audit_takes_seconds(timed_clean):
    """200 episodes in processor time: the limits are those for 50, and far from what it takes."""
    clean, with_films = timed_clean
    begin = time.process_time()
    assert len(audit(EMBEDDED, decode=False)) == len(clean)
    assert time.process_time() - begin < 10 and with_films < 60


@pytest.mark.minutes
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.words)
def test_a_fault_of_the_tables_is_the_worst_finding(fault, clean, tmp_path):
    fault.plant(copy_embedded(tmp_path))
    found = news(audit(tmp_path, decode=False), clean)
    assert (found[0].check, found[0].severity, found[0].episode) == (fault.check, fault.severity, fault.episode)
    assert {one.check for one in found} == {fault.check, *fault.also}
    if fault.check != "wrong_type":  # a column's type is that of its whole file
        own = [one for one in found if one.check not in USUAL or one.severity == "fail"]
        assert {one.episode for one in own} <= {HERE, fault.episode, WHOLE_DATASET}


@pytest.mark.minutes
@pytest.mark.parametrize("fault", FILE_FAULTS, ids=lambda fault: fault.words)
def test_a_fault_of_a_file_is_the_only_finding(fault, clean, tmp_path):
    fault.plant(copy_embedded(tmp_path, films=True))
    found = news(audit(tmp_path, decode=True), clean)
    assert (found[0].check, found[0].severity, found[0].episode) == (fault.check, fault.severity, fault.episode)
    assert {one.check for one in found} == {fault.check, *fault.also}


@pytest.mark.minutes
@pytest.mark.parametrize("fault", FILM_FAULTS, ids=lambda fault: fault.words)
def test_a_fault_of_the_pictures_is_the_worst_finding(fault, filmed, clean):
    found = [one for one in news(filmed, clean) if one.episode == fault.episode]
    assert (found[0].check, found[0].severity) == (fault.check, fault.severity)
    assert {one.check for one in found} == {fault.check, *fault.also}


@pytest.mark.minutes
def test_pictures_that_are_right_have_no_finding(filmed, clean):
    # A film that is encoded again may repeat a frame where the arm holds still, which is a warning.
    failed = {one.episode for one in news(filmed, clean) if one.severity == "fail"}
    assert failed == {fault.episode for fault in FILM_FAULTS if fault.severity == "fail"}


def test_every_check_finds_a_planted_fault():
    planted = {fault.check for fault in (*FAULTS, *FILE_FAULTS, *FILM_FAULTS)}
    assert planted == set(CHECKS)


@pytest.mark.parametrize("check", CHECKS)
def test_every_check_says_why_and_has_a_limit_a_unit_and_a_reason(check):
    words = " ".join(CHECKS[check].function.__doc__.split())
    assert len(words) > 120 and words.endswith(".")
    levels = [level for level in (CHECKS[check].limit.warn, CHECKS[check].limit.fail) if level is not None]
    assert levels and levels == sorted(levels) and min(levels) >= 0
    assert CHECKS[check].unit and CHECKS[check].reason


@pytest.mark.minutes
def test_the_page_of_checks_is_what_they_are():
    assert PAGE.read_text(encoding="utf-8") == page(worst_values()), "run python -m tests.data.audit.checks_page"
