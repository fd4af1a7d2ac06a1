"""The loopback ports of a local stack: chosen once, then kept with its data, so that a restarted server is found where it was."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from service.local.processes import free_port, port_is_free


class Ports(msgspec.Struct, frozen=True):
    """The ports of one stack."""

    kafka: int
    controller: int
    elasticsearch: int
    transport: int


@dataclass(frozen=True)
class PortsFile:
    """Where the ports of a stack are kept."""

    path: Path

    def read(self) -> Ports | None:
        """The ports that were chosen, or ``None`` before the first choice."""
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=Ports)
        except (FileNotFoundError, msgspec.DecodeError, msgspec.ValidationError):
            return None

    def choose(self, *, kafka: int, elasticsearch: int, kafka_ran: bool, elasticsearch_ran: bool) -> Ports:
        """The ports as wanted, else (where 0 is wanted) as kept, else free ones; they are kept from now on.

        A kept port that another program took before its server ever ran is replaced: nothing can know it yet.
        """
        kept = self.read()

        def port(wanted: int, name: str, ran: bool) -> int:
            before: int | None = getattr(kept, name, None)
            lost = before is not None and not ran and not port_is_free(before)
            return wanted or (free_port() if before is None or lost else before)

        ports = Ports(
            kafka=port(kafka, "kafka", kafka_ran),
            controller=port(0, "controller", kafka_ran),
            elasticsearch=port(elasticsearch, "elasticsearch", elasticsearch_ran),
            transport=port(0, "transport", elasticsearch_ran),
        )
        self.path.write_bytes(msgspec.json.encode(ports))
        return ports

    def delete(self) -> None:
        """Forget the ports."""
        self.path.unlink(missing_ok=True)
