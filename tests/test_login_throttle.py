"""Bounds on guessing: what an attacker gets, and that the owner of an account still gets in."""

import pytest

from diffusers_helper.service.login_throttle import (
    AT_ONCE,
    FREE_ATTEMPTS,
    FREE_FAILURES,
    LONGEST_PAUSE,
    LoginThrottle,
    TooManyAttemptsError,
    client_network,
)


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def throttle(clock):
    return LoginThrottle(clock)


def attempt(throttle, address="192.0.2.1", name="ann", succeeds=False):
    """Try once; return the seconds to wait, 0 if the password was looked at."""
    try:
        with throttle.attempt(address, name) as one:
            one.succeeded = succeeds
    except TooManyAttemptsError as early:
        return early.seconds
    return 0


def guesses_in(throttle, clock, seconds, choose):
    """How many passwords somebody gets looked at who tries four times a second; `choose` gives address and name."""
    got = 0
    for number in range(4 * seconds):
        got += not attempt(throttle, *choose(number))
        clock.now += 0.25
    return got


def test_pauses_double_up_to_a_minute_and_failures_are_forgotten(throttle, clock):
    assert [attempt(throttle) for _ in range(4)] == [0, 0, 0, 1]
    waited = []
    for _ in range(9):
        waited.append(attempt(throttle))
        clock.now += waited[-1]
        assert attempt(throttle) == 0
    assert waited == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    clock.now += 901
    assert [attempt(throttle) for _ in range(4)] == [0, 0, 0, 1]


def test_the_right_password_wipes_out_only_its_own_failures(throttle, clock):
    assert [attempt(throttle) for _ in range(3)] == [0, 0, 0]
    clock.now += 1
    assert attempt(throttle, succeeds=True) == 0
    assert [attempt(throttle) for _ in range(4)] == [0, 0, 0, 1]
    assert attempt(throttle, name="mallory", succeeds=True) == 0
    assert attempt(throttle) == 1, "an account of one's own changes nothing for guesses at another"


def test_an_hour_of_guesses_beside_an_account_of_ones_own(throttle, clock):
    """One's own login between the guesses once made 67 an hour 8,890."""

    def with_own_login(number):
        attempt(throttle, "192.0.2.1", "mallory", succeeds=True)
        return "192.0.2.1", "ann"

    assert guesses_in(throttle, clock, 3600, with_own_login) <= 75


def test_an_hour_of_guesses_from_ever_new_addresses(throttle, clock):
    assert guesses_in(throttle, clock, 3600, lambda number: (f"2001:db8:{number % 65536:x}::1", "ann")) <= 75


def test_an_hour_of_guesses_at_ever_new_names(throttle, clock):
    assert guesses_in(throttle, clock, 3600, lambda number: ("192.0.2.1", f"user{number}")) <= 75


@pytest.mark.parametrize("address", ["192.0.2.1", "192.0.2.2"])
def test_the_owner_gets_in_from_where_they_did_before_whatever_strangers_do(throttle, clock, address):
    assert attempt(throttle, "192.0.2.1", succeeds=True) == 0
    for number in range(1000):
        attempt(throttle, f"198.51.100.{number % 250}")
    wait = attempt(throttle, address)
    assert wait == (0 if address == "192.0.2.1" else LONGEST_PAUSE if wait > 1 else wait)
    assert attempt(throttle, "192.0.2.1", succeeds=True) == 0
    clock.now += LONGEST_PAUSE
    assert attempt(throttle, address, succeeds=True) == 0, "and from anywhere else within a minute"


def test_colleagues_of_one_address_are_not_slowed_by_one_who_guesses(throttle):
    for name in ("ann", "bob"):
        assert attempt(throttle, name=name, succeeds=True) == 0
    for number in range(100):
        attempt(throttle, name=f"guess{number}")
    assert attempt(throttle, name="ann", succeeds=True) == attempt(throttle, name="bob", succeeds=True) == 0
    assert attempt(throttle, name="new") > 0
    assert attempt(throttle, "192.0.2.9", name="new") == 0


def test_many_may_sign_in_at_once_and_after_failures_one(throttle, clock):
    def under_way(limit):
        held = [throttle.attempt("192.0.2.1", "ann") for _ in range(limit + 1)]
        begun = [one.__enter__() for one in held[:limit]]
        with pytest.raises(TooManyAttemptsError), held[limit]:
            pass
        return held[:limit], begun

    def end(held, begun, succeeded):
        for one, attempt_ in zip(held, begun, strict=True):
            attempt_.succeeded = succeeded
            one.__exit__(None, None, None)

    end(*under_way(AT_ONCE), True)
    end(*under_way(AT_ONCE), False)
    assert attempt(throttle) == 32
    clock.now += 32
    end(*under_way(1), False)
    assert attempt(throttle) == 60


def test_an_attempt_that_was_never_looked_at_is_no_failure(throttle):
    for _ in range(100):
        assert attempt(throttle, succeeds=None) == 0
    with pytest.raises(ZeroDivisionError), throttle.attempt("192.0.2.1", "ann"):
        raise ZeroDivisionError
    assert [attempt(throttle) for _ in range(4)] == [0, 0, 0, 1]


def test_a_week_of_guesses_is_counted(throttle, clock):
    """Two to the power of 1024 is no float any more."""
    for _ in range(2000):
        assert attempt(throttle) == 0
        clock.now += LONGEST_PAUSE
    assert attempt(throttle) == 0


def test_what_is_remembered_has_a_bound(clock):
    throttle = LoginThrottle(clock, most=50)
    for number in range(1000):
        attempt(throttle, f"2001:db8:{number:x}::1", f"user{number}", succeeds=number % 2 == 0)
    ledgers = (throttle._pairs, throttle._networks, throttle._accounts)
    assert [len(ledger._records) for ledger in ledgers] == [50, 50, 50]
    assert len(throttle._familiar) == 50
    name = "a" * 1_000_000
    attempt(throttle, name=name)
    assert max(len(key) for key in throttle._accounts._records) < 100


def test_successes_leave_nothing_behind(throttle):
    for number in range(100):
        attempt(throttle, f"192.0.2.{number}", succeeds=True)
    assert not throttle._pairs._records
    assert not throttle._networks._records
    assert FREE_ATTEMPTS < FREE_FAILURES


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:1%eth0", "2001:db8::/64"),
        ("", ""),
        ("testclient", "testclient"),
    ],
)
def test_what_one_computer_can_change_counts_as_one(address, network):
    assert client_network(address) == network
