"""A ledger while a round works on it: entries by incarnation and by node, both sums kept as running sums.

The ledger itself is a value, and sums over all of its entries: at 5,000 nodes a round asks for them at every raise.
"""

from dataclasses import replace

from memorypressure.ledger import Entry, Ledger, entry_bytes


class Book:
    """One ledger in work. `ledger` gives it back as a value; nothing else leaves a round."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._entries: dict[str, Entry] = {}
        self._of_node: dict[str, dict[str, Entry]] = {}
        self._killed = sum(ledger.buckets)
        self._lost_rest = 0
        self._bytes: int | None = None
        self.standing = 0
        for entry in ledger.entries:
            self.put(entry)

    @property
    def spent(self) -> int:
        """Kills of the last hour, with those that count as killed."""
        return self._killed + self._lost_rest

    @property
    def quarantine_ns(self) -> int:
        """How long nothing may be raised."""
        return self._ledger.quarantine_ns

    @property
    def entries_bytes(self) -> int:
        """What the entries take of the ConfigMap; counted from when it is asked for."""
        if self._bytes is None:
            self._bytes = sum(map(entry_bytes, self._entries.values()))
        return self._bytes

    def entries(self) -> tuple[Entry, ...]:
        """All entries as they are now, in no order."""
        return tuple(self._entries.values())

    def entry(self, incarnation: str) -> Entry | None:
        """What the incarnation holds."""
        return self._entries.get(incarnation)

    def of_node(self, node: str) -> tuple[Entry, ...]:
        """What the incarnations of a node hold, lost ones too, sorted."""
        found = self._of_node.get(node)
        if not found:
            return ()
        return tuple(found.values()) if len(found) == 1 else tuple(found[key] for key in sorted(found))

    def put(self, entry: Entry) -> None:
        """Takes the entry in place of the incarnation's former one."""
        if self._entries.get(entry.incarnation) is entry:
            return
        self.drop(entry.incarnation)
        self._entries[entry.incarnation] = entry
        self._of_node.setdefault(entry.node, {})[entry.incarnation] = entry
        self._add(entry, 1)

    def drop(self, incarnation: str) -> None:
        """Forgets the incarnation's entry."""
        before = self._entries.pop(incarnation, None)
        if before is not None:
            del self._of_node[before.node][incarnation]
            self._add(before, -1)

    def spend(self, kills: int) -> None:
        """Counts so many kills as done now; none for a number below 1."""
        if kills > 0:
            self._killed += kills
            buckets = self._ledger.buckets
            self._ledger = replace(self._ledger, buckets=(buckets[0] + kills, *buckets[1:]))

    def ledger(self) -> Ledger:
        """The ledger as it is now."""
        entries = tuple(sorted(self._entries.values(), key=lambda entry: entry.incarnation))
        return self._ledger if entries == self._ledger.entries else replace(self._ledger, entries=entries)

    def _add(self, entry: Entry, sign: int) -> None:
        if self._bytes is not None:
            self._bytes += sign * entry_bytes(entry)
        if entry.lost:
            self._lost_rest += sign * entry.rest
        else:
            self.standing += sign * entry.rest
