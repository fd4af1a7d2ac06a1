"""Which versions of Kafka and Elasticsearch belong to this release of Tidewatch.

``jars.lock.json`` (written by ``make lock``) and the images in ``docker-compose.yml`` must have the same; a test checks that.
"""

from __future__ import annotations

KAFKA = "4.1.0"
SCALA = "2.13"  # the Scala line that Kafka's broker is published for
LOG4J = "2.24.3"  # the version this Kafka is built with; its bridge from SLF4J is not among Kafka's own dependencies
ELASTICSEARCH = "9.2.0"

# What is resolved and locked, by part.
COORDINATES: dict[str, tuple[str, ...]] = {
    "kafka": (f"org.apache.kafka:kafka_{SCALA}:{KAFKA}", f"org.apache.logging.log4j:log4j-slf4j-impl:{LOG4J}"),
    "elasticsearch": (f"org.elasticsearch:elasticsearch:{ELASTICSEARCH}",),
    "transport": (f"org.elasticsearch.plugin:transport-netty4:{ELASTICSEARCH}",),
}
