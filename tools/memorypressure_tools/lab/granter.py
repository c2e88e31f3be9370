"""In the guest: stands for reporter and operator, with the functions of core and agent that these use.

Makes the journal of a node that has never killed, so that no cool-down has to pass, and the file `PREPARED`; then gives
orders with a grant that echoes the sentinel's beat, and returns when the sentinel may kill and has settled: its memory
is locked, real time is asked for. A beat is good for grantSeconds (900), longer than any run: it is echoed once.
"""

import sys
import time
from dataclasses import replace
from pathlib import Path

from memorypressure import ladder
from memorypressure.grants import Grant
from memorypressure.orders import decode, encode
from memorypressure_agent.host.clocks import boot_ns, read_boot_id
from memorypressure_agent.host.journal import Journal
from memorypressure_agent.host.journal_format import JournalError
from memorypressure_agent.host.journal_reader import JournalReader

JOURNAL = "/run/mp/journal"
PREPARED = Path("/run/mp/prepared")
ORDERS = Path("/run/mp/orders.json")
UNGRANTED = Path("/config/lab/orders.json")
ARM_SECONDS = 30.0
KILLS = 6


def prepare() -> None:
    """Makes the journal."""
    journal = Journal(JOURNAL, read_boot_id())
    journal.write_state({"ladder": ladder.durable(ladder.initial(boot_ns(), unknown_past=False)), "pending": None})
    journal.close()
    PREPARED.touch()


def arm() -> None:
    """Waits for the sentinel's beat, echoes it, waits until its status says that it may kill and has settled."""
    reader = JournalReader(JOURNAL)
    end = time.monotonic() + ARM_SECONDS
    given = 0
    said = "no status yet"
    while time.monotonic() < end:
        try:
            reader.refresh()
            lease = reader.lease()
            status = reader.status()
        except JournalError as error:
            said = str(error)
            time.sleep(0.2)
            continue
        if lease.beat != given:
            orders = decode(UNGRANTED.read_bytes())
            grant = Grant(lease.incarnation, lease.beat, lease.kills_total + KILLS, orders.plan_uid, 1)
            temporary = ORDERS.with_suffix(".new")
            temporary.write_bytes(encode(replace(orders, grant=grant)))
            temporary.rename(ORDERS)
            given = lease.beat
        if status is not None:
            permit, capabilities = status.values["permit"], status.values["capabilities"]
            said = f"{permit['reason']}: {permit['message']}; {capabilities}"
            if permit["allowed"] and "MemoryLocked" in capabilities:
                print(f"armed: {said}")
                return
        time.sleep(0.2)
    sys.exit(f"not armed within {ARM_SECONDS:.0f} s: {said}")


if __name__ == "__main__":
    prepare()
    arm()
