"""The one place that says which Kafka and which Elasticsearch belong to this release of Tidewatch.

``jars.lock.json`` (made by ``make lock``) and the images in ``docker-compose.yml`` follow these numbers; tests hold them to it.
"""

from __future__ import annotations

KAFKA = "4.1.0"
SCALA = "2.13"  # the Scala line that Kafka's broker is published for
LOG4J = "2.24.3"  # what this Kafka is built with; the bridge from SLF4J, which only Kafka's distribution brings along
ELASTICSEARCH = "9.2.0"

# What is resolved and locked, by the name of the part it belongs to.
COORDINATES: dict[str, tuple[str, ...]] = {
    "kafka": (f"org.apache.kafka:kafka_{SCALA}:{KAFKA}", f"org.apache.logging.log4j:log4j-slf4j-impl:{LOG4J}"),
    "elasticsearch": (f"org.elasticsearch:elasticsearch:{ELASTICSEARCH}",),
    "transport": (f"org.elasticsearch.plugin:transport-netty4:{ELASTICSEARCH}",),
}
