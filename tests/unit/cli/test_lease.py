"""When may a sandbox exist whose id is not known?"""

from contextlib import suppress

import pytest

from cnm.errors import CnmError, Conflict, Timeout, Undelivered
from cnm_cli.client import Lost
from cnm_cli.lease import Lease


class Answers:
    """A client whose requests end as they are told to, one after another."""

    def __init__(self, *outcomes):
        self.outcomes = list(outcomes)

    async def ask(self, subject, body, **options):
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, CnmError):
            raise outcome
        return outcome


@pytest.mark.parametrize(
    ("outcomes", "doubtful"),
    [
        ([Undelivered("nobody is there")], False),
        ([Conflict("it is taken")], False),
        ([Lost("the line broke")], True),
        ([Timeout("too late")], True),
        ([Lost("the line broke"), Undelivered("nobody is there")], True),
        ([Lost("the line broke"), Undelivered("nobody is there"), Conflict("it was taken")], False),
        ([Lost("the line broke"), {"id": "1"}], False),
    ],
)
async def test_sandbox_is_doubtful_until_somebody_told_of_the_very_request(outcomes, doubtful):
    lease, client = Lease({"name": "s"}), Answers(*outcomes)
    for _ in outcomes:
        with suppress(CnmError):
            await lease.create(client)

    assert lease.doubtful is doubtful
