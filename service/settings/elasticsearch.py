"""How to reach Elasticsearch, and the indices of the alert history."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr

from service.settings.base import Positive, Seconds, Section


class ElasticsearchSettings(Section):
    """How to reach Elasticsearch, and the indices of the alert history."""

    url: str = "http://127.0.0.1:9200"
    api_key: SecretStr | None = None
    api_key_file: Path | None = None
    username: str | None = None
    password: SecretStr | None = None
    password_file: Path | None = None
    ca_file: Path | None = None
    index_prefix: str = "tidewatch"
    request_timeout_seconds: Seconds = 10.0
    bulk_max_bytes: Annotated[int, Field(ge=10_000)] = 500_000
    shards: Positive = 1
    replicas: Annotated[int, Field(ge=0)] = 0
